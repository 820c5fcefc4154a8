"""Runs the server: listen, load, serve, and end without a request or a process left behind."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Literal

import uvicorn
from starlette.types import ASGIApp
from uvicorn.loops.auto import auto_loop_factory

from vram_llm.chat.render_pool import rendering_in_processes
from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.supervisor import NOTICES
from vram_llm.errors import BadCertificate, BadKeysFile
from vram_llm.machine.worker_spec import is_loopback
from vram_llm.server.api_keys import Keyring
from vram_llm.server.app import create_app
from vram_llm.server.certificate import check_certificate, load_certificate
from vram_llm.server.config import ServerConfig
from vram_llm.server.connection_limits import raised_limits
from vram_llm.server.load_log import report_load
from vram_llm.server.traces import TracesMiddleware, traces_wanted
from vram_llm.server.ui.ports import Ui

log = logging.getLogger(NOTICES)

KEEP_ALIVE_S = 75  # longer than clients keep an idle connection
_FLUSH_S = 5  # for clients to read what is sent, once no request is in flight


def http_protocol() -> "type[asyncio.Protocol] | Literal['auto']":
    """The class of a connection: HttpProtocol if httptools is installed, else uvicorn's default, h11."""
    try:
        from vram_llm.server.http_protocol import HttpProtocol
    except ImportError:
        return "auto"
    HttpProtocol.limits = raised_limits()
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
    ui: Ui | None = None,
) -> None:
    """Start `engine` and answer on `socks` until SIGINT or SIGTERM.

    /health answers 503 while the model loads. After a signal it answers 503 again, and requests in flight
    have `config.drain_timeout_s` to finish; a second signal ends them at once. SIGHUP reads API keys and
    certificate again. If all sockets are bound to loopback addresses, or hosts are allowed by name, other
    host names are refused (see server.host_check). `ui` is for the dashboard, whose log it collects.
    Raises BadKeysFile, BadCertificate, MissingExtra, BadTraceSettings (see server.traces), the first load's
    error, and EngineDied after too many crashes.
    """
    ui = ui or Ui()
    with rendering_in_processes(), ui.logs.collecting():
        await _serve(engine, socks, config, on_ready, ui)


async def _serve(
    engine: EngineClient,
    socks: list[socket.socket],
    config: ServerConfig,
    on_ready: Callable[[ModelInfo], None],
    ui: Ui,
) -> None:
    keyring = Keyring(config)
    check_certificate(config)
    traces = traces_wanted(os.environ)
    app = create_app(engine, config, keyring=keyring, hosts=accepted_hosts(socks, config), ui=ui)
    if traces is not None:
        app.add_middleware(TracesMiddleware, traces=traces)
    server = HttpServer(app, config, keyring, engine.drain)
    serving = asyncio.create_task(server.serve(sockets=socks))
    engine.start()
    loading, ending = asyncio.create_task(engine.ready()), asyncio.create_task(engine.ended())
    reporting = asyncio.create_task(report_load(engine))
    try:
        await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            on_ready(loading.result())
            gc.collect()
            gc.freeze()  # these objects stay: looking through them all again would delay streams
        await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done() and not server.has_signal:
            ending.result()
        await serving
    finally:
        loading.cancel()
        ending.cancel()
        reporting.cancel()
        server.should_exit = True
        await engine.stop()
        await asyncio.gather(serving, loading, ending, reporting, return_exceptions=True)
        if traces is not None:
            traces.close()


def accepted_hosts(socks: Iterable[socket.socket], config: ServerConfig) -> frozenset[str] | None:
    """Host names that are accepted in addition to loopback addresses; None: every name."""
    checks_host = bool(config.allowed_hosts) or all(is_loopback(sock.getsockname()[0]) for sock in socks)
    return frozenset(host.lower() for host in config.allowed_hosts) if checks_host else None


class HttpServer(uvicorn.Server):
    """uvicorn's server. A signal first calls `drain`; SIGHUP reads keys and certificate again.

    `drain` gets the seconds that requests in flight have to finish. `on_hangup` is called at SIGHUP too. With
    a log file SIGHUP ends nothing either: programs that rotate logs send it.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServerConfig,
        keyring: Keyring,
        drain: Callable[[float], Awaitable[None]],
        on_hangup: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,  # its lines go the way of all others
                log_level="warning",
                access_log=False,
                lifespan="off",
                http=http_protocol(),
                ssl_certfile=config.ssl_certfile,
                ssl_keyfile=config.ssl_keyfile,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=_FLUSH_S,
            )
        )
        self._drain_requests = drain
        self._hangup = on_hangup
        self._own_config = config
        self._keyring = keyring
        self._had_terminal = _has_terminal()
        self._draining: asyncio.Task[None] | None = None

    @property
    def has_signal(self) -> bool:
        """Whether a signal has come to end."""
        return self._draining is not None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Like uvicorn's, but does not raise the signal again at the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        config = self._own_config
        paths = (config.keys_file, config.ssl_certfile, config.log_file)
        if self._hangup is not None or any(path is not None for path in paths):
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _on_hangup(self) -> None:
        if self._had_terminal and not _has_terminal():  # its window was closed
            self._on_signal()
            return
        config = self._own_config
        try:
            if config.keys_file is not None:
                log.info("the file of API keys was read again: %d keys", self._keyring.read())
            if self.config.ssl is not None:
                check_certificate(config)  # before the context in use takes a part of it
                load_certificate(self.config.ssl, config)
                log.info("the certificate was read again")
        except (BadKeysFile, BadCertificate) as error:
            log.error("nothing changes: %s", error)
        if self._hangup is not None:
            self._hangup()

    def _on_signal(self) -> None:
        if self._draining is not None:
            self._draining.cancel()
            self.force_exit = True
        grace_s = 0.0 if self.force_exit else self._own_config.drain_timeout_s
        self._draining = asyncio.get_running_loop().create_task(self._drain(grace_s))

    async def _drain(self, grace_s: float) -> None:
        """Let requests in flight finish; until then the server listens and /health tells that it stops."""
        await self._drain_requests(grace_s)
        self.should_exit = True


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
