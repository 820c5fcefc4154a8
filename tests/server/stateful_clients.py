"""Clients of a real server in any order of events: they stream, leave at any event, read slowly or not.

After each run nothing may be left: no sequence, no request in flight, no connection, and no answer was a 5xx.
"""

import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.engine.harness import running
from tests.patience import PATIENCE_S, looks
from tests.server.live import listening
from vram_llm.engine.client import EngineClient
from vram_llm.planner.types import Plan

PARALLEL = 2
_SLOW_READ = 64  # bytes
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: the connection is reset in place of being closed

ROUTES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/completions", {"prompt": [1, 50, 60]}),
    ("/v1/completions", {"prompt": [[1, 50], [1, 60]], "n": 2}),
    ("/v1/completions", {"prompt": "a", "temperature": 0, "logprobs": 2}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "n": 3}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}]}),
)
_LIMITS = {"/v1/responses": "max_output_tokens"}
BAD: tuple[bytes, ...] = (
    b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n{{{",
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 30\r\n\r\n"
    + b'{"prompt": "a", "n": -1e309}  ',
)


@dataclass
class Client:
    """One connection, and what came over it."""

    sock: socket.socket
    received: bytearray = field(default_factory=bytearray)

    def read(self, n_events: int) -> None:
        """Read until that many events more have come, or the end."""
        wanted = self.received.count(b"\n\n") + n_events
        while self.received.count(b"\n\n") < wanted and self.read_some(1 << 16):
            pass

    def read_some(self, n_bytes: int) -> bool:
        data = self.sock.recv(n_bytes)
        self.received += data
        return bool(data)

    def check(self) -> None:
        """Raises AssertionError if the status is a 5xx."""
        status = bytes(self.received[9:12])
        assert not status.startswith(b"5"), bytes(self.received[:600])


@dataclass
class Target:
    """A running server and its engine."""

    engine: EngineClient
    port: int

    @property
    def n_in_flight(self) -> int:
        return len(self.engine.in_flight)


@asynccontextmanager
async def target(plan: Plan) -> AsyncIterator[Target]:
    """A real server before a real engine with the plan's model."""
    async with running(plan) as engine, listening(engine) as url:
        yield Target(engine, int(url.rpartition(":")[2]))


def _post(path: str, fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Clients(RuleBasedStateMachine):
    """The rules are what clients do. `server` is set before the machine runs."""

    server: Target

    def __init__(self) -> None:
        super().__init__()
        self.clients: list[Client] = []
        self.n_fds = psutil.Process().num_fds()

    def _connect(self, data: bytes) -> Client:
        sock = socket.create_connection(("127.0.0.1", self.server.port), timeout=PATIENCE_S)
        sock.sendall(data)
        client = Client(sock)
        self.clients.append(client)
        return client

    @precondition(lambda self: len(self.clients) < 12)
    @rule(
        route=st.sampled_from(ROUTES),
        stream=st.booleans(),
        n_tokens=st.sampled_from([1, 5, 40, 400]),
        max_time=st.sampled_from([None, None, 0.001, 0.05]),
    )
    def ask(
        self, route: tuple[str, dict[str, Any]], stream: bool, n_tokens: int, max_time: float | None
    ) -> None:
        path, fields = route
        limit = _LIMITS.get(path, "max_tokens")
        more = {"max_time": max_time} if max_time is not None else {}
        self._connect(_post(path, {**fields, **more, limit: n_tokens, "stream": stream, "ignore_eos": True}))

    @rule(bad=st.sampled_from(BAD))
    def ask_badly(self, bad: bytes) -> None:
        self._connect(bad)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), n_events=st.integers(1, 8))
    def read(self, data: st.DataObject, n_events: int) -> None:
        client = self._one(data)
        if bytes(client.received[9:12]) == b"200" or not client.received:
            client.sock.settimeout(0.2)  # a whole answer, or a half request, sends no events
            with suppress(TimeoutError):
                client.read(n_events)
        client.check()

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def read_slowly(self, data: st.DataObject) -> None:
        client = self._one(data)
        client.sock.settimeout(0.02)
        with suppress(TimeoutError):
            client.read_some(_SLOW_READ)
        client.check()

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), reset=st.booleans())
    def leave(self, data: st.DataObject, reset: bool) -> None:
        client = self._one(data)
        self.clients.remove(client)
        if reset:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.sock.close()
        client.check()

    def _one(self, data: st.DataObject) -> Client:
        return self.clients[data.draw(st.integers(0, len(self.clients) - 1))]

    def teardown(self) -> None:
        """All leave; then nothing is in flight, and as many sequences as fit run at once."""
        for client in self.clients:
            client.sock.close()
            client.check()
        for _ in looks():
            if not self.server.n_in_flight:
                break
        assert self.server.n_in_flight == 0
        many = {"prompt": [1, 2], "n": 2 * PARALLEL, "max_tokens": 2, "ignore_eos": True}
        last = self._connect(_post("/v1/completions", many))
        while last.read_some(1 << 16):
            pass
        last.sock.close()
        assert last.received.startswith(b"HTTP/1.1 200"), bytes(last.received)
        assert (
            json.loads(last.received.partition(b"\r\n\r\n")[2])["usage"]["completion_tokens"] == 4 * PARALLEL
        )
        for _ in looks():  # the answer comes before the statistics of the step that ended it
            stats = self.server.engine.stats
            if (stats.n_running, stats.n_waiting) == (0, 0):
                break
        assert (stats.n_running, stats.n_waiting) == (0, 0)
        for _ in looks():
            if psutil.Process().num_fds() <= self.n_fds:
                break
        assert psutil.Process().num_fds() <= self.n_fds
