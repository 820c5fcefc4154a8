"""Connections from replicas to the server's process, with the engine's own messages.

A replica dials, so that only the server's address has to be known, and shows the token that it was given by
Ray. Ray's own streams of objects are not used: they cost more than a small model's step for each token
(ray-project/ray#52745).
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from vram_llm._version import __version__
from vram_llm.engine import wire
from vram_llm.planner.types import Plan

log = logging.getLogger("vram_llm.fleet")

_MAX_HELLO_BYTES = 2**22
_HELLO_S = 10.0  # for a replica to say who it is
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 11_000}  # s, ms


class Hello(msgspec.Struct, frozen=True):
    """The first message of a replica, whose engine has loaded `plan`."""

    token: str
    model: str  # its name in the fleet
    node: str  # a name for messages
    plan: Plan
    version: str = __version__


class Leaving(msgspec.Struct, tag=True):
    """The replica finishes its requests, takes no more, and ends."""


@dataclass(frozen=True, slots=True, eq=False)
class ReplicaLink:
    """A connection to a replica."""

    hello: Hello
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Switchboard:
    """Listens for replicas and gives each connection to its model. Use from one event loop."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(32)
        self._models: dict[str, Callable[[ReplicaLink], None]] = {}
        self._server: asyncio.Server | None = None

    async def start(self, host: str) -> tuple[str, int]:
        """Listen on a free port. Returns the address. Raises OSError."""
        self._server = await asyncio.start_server(self._greet, host, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return host, port

    def close(self) -> None:
        """Take no more connections. Those of engines stay."""
        if self._server is not None:
            self._server.close()

    def expect(self, model: str, take: Callable[[ReplicaLink], None]) -> None:
        """Give the connections of a model's replicas to `take`."""
        self._models[model] = take

    def forget(self, model: str) -> None:
        """Refuse connections of a model's replicas."""
        self._models.pop(model, None)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HELLO_S):
                length = wire.body_length(await reader.readexactly(wire.HEADER_BYTES))
                if length > _MAX_HELLO_BYTES:
                    raise ValueError(f"its first message has {length} bytes")
                hello = msgspec.msgpack.decode(await reader.readexactly(length), type=Hello)
            if not secrets.compare_digest(hello.token.encode(), self.token.encode()):
                raise ValueError("it has another token")
            if hello.version != __version__:
                raise ValueError(f"{hello.node} has vram-llm {hello.version}, and this is {__version__}")
        except (OSError, EOFError, ValueError) as error:  # TimeoutError is an OSError
            log.warning("a connection to the port for replicas is refused: %s", error or "it says nothing")
            writer.close()
            return
        take = self._models.get(hello.model)
        if take is None:  # its model is being unloaded
            writer.close()
            return
        notice_lost_peers(writer)
        take(ReplicaLink(hello, reader, writer))


def notice_lost_peers(writer: asyncio.StreamWriter) -> None:
    """Let the kernel end a connection whose other machine is silent for some ten seconds."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def pack_hello(hello: Hello) -> bytes:
    """The frame of a replica's first message."""
    return _frame(msgspec.msgpack.encode(hello))


def pack_leaving() -> bytes:
    """The frame of a replica's last message but for its answers."""
    return _frame(msgspec.msgpack.encode(Leaving()))


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(wire.HEADER_BYTES, "little") + body


decode_from_replica = msgspec.msgpack.Decoder(wire.FromEngine | Leaving).decode


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The body of the next frame. Raises IncompleteReadError, OSError."""
    return await reader.readexactly(wire.body_length(await reader.readexactly(wire.HEADER_BYTES)))
