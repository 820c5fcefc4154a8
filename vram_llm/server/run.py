"""Runs the server: listen, load, serve, and end without a request or a process left behind."""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable, Generator
from typing import Literal

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import ModelInfo
from vram_llm.server.app import create_app
from vram_llm.server.config import ServerConfig
from vram_llm.server.host_check import is_loopback

KEEP_ALIVE_S = 75  # longer than clients keep an idle connection
DRAIN_S = 10.0  # time for requests in flight to finish after the first Ctrl+C


def http_protocol() -> "type[asyncio.Protocol] | Literal['auto']":
    """The class of a connection: HttpProtocol if httptools is installed, else uvicorn's default, h11."""
    try:
        from vram_llm.server.http_protocol import HttpProtocol
    except ImportError:
        return "auto"
    return HttpProtocol


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's event loop if it is installed, else asyncio's."""
    return auto_loop_factory()()


async def serve(
    engine: EngineClient,
    socks: list[socket.socket],
    config: ServerConfig,
    *,
    on_ready: Callable[[ModelInfo], None] = lambda _: None,
) -> None:
    """Start `engine` and answer on `socks` until SIGINT or SIGTERM. Raises the first load's error.

    /health answers 503 while the model loads. After a signal, requests in flight have DRAIN_S to finish; a
    second signal ends them at once. If all sockets are bound to loopback addresses, or hosts are allowed by
    name, other host names are refused (see server.host_check).
    """
    checks_host = bool(config.allowed_hosts) or all(is_loopback(sock.getsockname()[0]) for sock in socks)
    app = create_app(
        engine,
        config,
        hosts=frozenset(host.lower() for host in config.allowed_hosts) if checks_host else None,
    )
    http = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        http=http_protocol(),
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(DRAIN_S) + 1,  # for clients that neither read nor write
    )
    server = _Server(http, engine)
    serving = asyncio.create_task(server.serve(sockets=socks))
    engine.start()
    loading = asyncio.create_task(engine.ready())
    try:
        await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            on_ready(loading.result())
            gc.collect()
            gc.freeze()  # these objects stay: looking through them all again would delay streams
        await serving
    finally:
        loading.cancel()
        server.should_exit = True
        await engine.stop()
        await asyncio.gather(serving, loading, return_exceptions=True)


class _Server(uvicorn.Server):
    """uvicorn's server. A signal first lets the engine finish."""

    def __init__(self, config: uvicorn.Config, engine: EngineClient) -> None:
        super().__init__(config)
        self._engine = engine
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Like uvicorn's, but does not raise the signal again at the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        if self._draining is not None:
            self._draining.cancel()
        grace_s = 0.0 if self.force_exit else DRAIN_S
        self._draining = asyncio.get_running_loop().create_task(self._engine.drain(grace_s))
