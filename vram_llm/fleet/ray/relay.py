"""An engine process whose requests come from another process, by TCP."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable

from vram_llm.engine import wire
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.plan_source import Replan
from vram_llm.engine.supervisor import EngineProcess
from vram_llm.fleet.ray.links import Hello, notice_lost_peers, pack_hello, pack_leaving, read_frame
from vram_llm.planner.types import Plan

log = logging.getLogger("vram_llm.fleet")

_DIAL_S = 10.0
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.1, 5.0  # before the server is dialled again
_LASTING_S = 10.0  # a connection that ends sooner was perhaps refused
_LOOK_S = 0.05


class EngineRelay(EngineProcess):
    """Keeps an engine running, as the server does with its own, and connects it to the server.

    `address` is the server's, `token` shows it that the replica is Ray's. Use from one event loop.
    """

    def __init__(
        self, plan: Plan, model: str, address: tuple[str, int], *, token: str, node: str,
        watchdog_s: float | None = None, replan: Replan | None = None,
    ) -> None:  # fmt: skip
        super().__init__(plan, model, self._note_state, watchdog_s, replan)
        self._address = address
        self._token, self._node = token, node
        self._link: asyncio.StreamWriter | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._ids: set[str] = set()  # of the requests in the engine
        self._is_leaving = False
        self.unlinked_since: float | None = None  # monotonic; None: it is connected, or not loaded

    async def leave(self, grace_s: float) -> None:
        """Take no more requests; give those in the engine `grace_s` to end."""
        self._is_leaving = True
        if self._link is not None:
            self._link.write(pack_leaving())
        deadline = time.monotonic() + grace_s
        while self._ids and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_S)  # between two looks at the requests in flight
        if self._link is not None:
            with contextlib.suppress(OSError):
                await self._link.drain()

    async def stop(self) -> None:
        """End the process and the connection."""
        self._is_leaving = True
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)
        await super().stop()

    def _note_state(self) -> None:
        if self.state is EngineState.READY and self._dialling is None:
            self._dialling = asyncio.create_task(self._stay_connected(), name="connection to the server")

    def _receive(self, message: wire.FromEngine | None) -> bool:
        match message:
            case None:
                self._drop_link()
                return True
            case wire.StepEvents(events):
                self._ids.difference_update(e.id for e in events if e.finish_reason is not None)
            case wire.Tokens() | wire.Pieces() | wire.Embedded():
                self._ids.discard(message.id)
            case wire.Notice() | wire.MemoryWarning():
                self._pass_on(message)
                return False
            case wire.Loading() | wire.Ready() | wire.Failed():
                return False
        self._pass_on(message)
        return True

    def _pass_on(self, message: wire.FromEngine) -> None:
        if self._link is not None and not self._link.is_closing():
            self._link.write(wire.pack(message))

    def _drop_link(self) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        if self._link is not None:
            self._link.close()
            self._link = None
        self._ids.clear()

    # -- the connection --------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        """Dial again and again while the engine is ready."""
        pause_s = _LEAST_PAUSE_S
        self.unlinked_since = time.monotonic()
        while not self._is_leaving:
            began = time.monotonic()
            try:
                async with asyncio.timeout(_DIAL_S):
                    reader, writer = await asyncio.open_connection(*self._address)
            except OSError as error:  # TimeoutError is one
                log.warning("the server at %s:%d does not answer: %s", *self._address, error)
            else:
                self._greet(writer)
                try:
                    await self._obey(reader)
                finally:
                    self._cancel(self._ids)
                    writer.close()
                self._link = None
                self.unlinked_since = time.monotonic()
            pause_s = _LEAST_PAUSE_S if time.monotonic() - began > _LASTING_S else pause_s
            await asyncio.sleep(pause_s)  # before the next attempt to connect
            pause_s = min(2 * pause_s, _MOST_PAUSE_S)

    def _greet(self, writer: asyncio.StreamWriter) -> None:
        assert self.info is not None
        notice_lost_peers(writer)
        writer.write(pack_hello(Hello(self._token, self._model_name, self._node, self.plan)))
        writer.write(wire.pack(wire.Ready(self.info)))
        self._link, self.unlinked_since = writer, None

    async def _obey(self, reader: asyncio.StreamReader) -> None:
        """Pass the server's messages to the engine until the connection ends."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                message = wire.decode_to_engine(await read_frame(reader))
                match message:
                    case wire.Start() | wire.Stop():
                        continue  # the replica's own affair
                    case wire.Cancel(id):
                        self._ids.discard(id)
                    case wire.Finish():
                        pass
                    case _:
                        self._ids.add(message.id)
                self._send(message)

    def _cancel(self, ids: Iterable[str]) -> None:
        for request_id in tuple(ids):
            self._send(wire.Cancel(request_id))
        self._ids.clear()
