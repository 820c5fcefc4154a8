"""Runs the server of a fleet: listen, load the models of the start, serve, and end without a process left."""

import asyncio
import contextlib
import gc
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from vram_llm.chat.render_pool import rendering_in_processes
from vram_llm.errors import RequestError, VramLLMError
from vram_llm.fleet.background import run_in_background
from vram_llm.server.api_keys import Keyring
from vram_llm.server.certificate import check_certificate
from vram_llm.server.config import ServerConfig
from vram_llm.server.fleet.app import FleetParts, create_fleet_app
from vram_llm.server.fleet.fleet_load_log import report_fleet_load
from vram_llm.server.fleet.model_events import ModelEvents
from vram_llm.server.fleet.ports import RunningFleet
from vram_llm.server.fleet.readiness import Readiness
from vram_llm.server.fleet.reloading import ApplySettings, ReadSettings, Reloader
from vram_llm.server.fleet.routed_models import FleetSettings, RoutedModels
from vram_llm.server.fleet.what_if_routes import AskAbout
from vram_llm.server.run import HttpServer, accepted_hosts
from vram_llm.server.traces import TracesMiddleware, traces_wanted
from vram_llm.server.ui.log_ring import LogRing

log = logging.getLogger("vram_llm.fleet")
_LOOK_EVERY_S = 5.0  # for models that `vram-llm pull` has fetched


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetService:
    """A fleet, the settings that it was made of, and the ways to make them anew.

    `apply` goes on with other settings. `read` reads the configuration again; None: it cannot be read again.
    `installed` gives a value that changes when models are installed or removed, of which the configuration
    makes use; it is called in a thread. `on_ready` is called when the models of the start are loaded. `about`
    answers what-if questions.
    """

    fleet: RunningFleet
    settings: FleetSettings
    apply: ApplySettings
    read: ReadSettings | None = None
    installed: Callable[[], object] | None = None
    on_ready: Callable[[], None] = lambda: None
    about: AskAbout | None = None
    logs: LogRing = field(default_factory=LogRing)


async def serve_fleet(service: FleetService, socks: list[socket.socket], config: ServerConfig) -> None:
    """Start the fleet and answer on `socks` until SIGINT or SIGTERM.

    /health answers 503 while the models of the start load. SIGHUP reads API keys, certificate and
    configuration again; with a broken file everything stays as it is, and the log says why. Otherwise like
    server.run.serve. Raises BadKeysFile, BadCertificate, MissingExtra, BadTraceSettings, and the error of the
    first load if no model of the start can be loaded.
    """
    with rendering_in_processes(), service.logs.collecting():
        await _Serving(service, config).run(socks)


class _Serving:
    """The parts of a running server."""

    def __init__(self, service: FleetService, config: ServerConfig) -> None:
        self._service = service
        self._config = config
        self._fleet = service.fleet
        self._keyring = Keyring(config)
        models = RoutedModels(service.fleet, service.settings)
        events = ModelEvents(service.fleet, config.sse_ping_interval_s)
        self._parts = FleetParts(
            fleet=service.fleet,
            models=models,
            readiness=Readiness(),
            events=events,
            about=service.about,
            reloader=Reloader(
                models, config, read=service.read, apply=service.apply, on_reload=events.announce_reload
            ),
        )
        self._background = set[asyncio.Task[None]]()
        self._reloading: asyncio.Task[None] | None = None
        self._waits_for_reload = False

    async def run(self, socks: list[socket.socket]) -> None:
        """Serve until a signal."""
        config, parts = self._config, self._parts
        check_certificate(config)
        traces = traces_wanted(os.environ)
        app = create_fleet_app(
            parts,
            config,
            keyring=self._keyring,
            hosts=accepted_hosts(socks, config),
            logs=self._service.logs,
        )
        if traces is not None:
            app.add_middleware(TracesMiddleware, traces=traces)
        on_hangup = None if self._service.read is None else self._reload_soon
        server = HttpServer(app, config, self._keyring, self._drain, on_hangup)
        serving = asyncio.create_task(server.serve(sockets=socks))
        loading = asyncio.create_task(self._load_first())
        others = [
            run_in_background(report_fleet_load(self._fleet, parts.models), self._background),
            run_in_background(self._watch_installed(), self._background),
        ]
        try:
            await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
            await serving
        finally:
            for task in (loading, *others):
                task.cancel()
            server.should_exit = True
            parts.events.end()
            await self._fleet.stop()
            await asyncio.gather(serving, loading, *others, return_exceptions=True)
            if traces is not None:
                traces.close()

    async def _load_first(self) -> None:
        """Load the models of the start. Raises the first's error if none can be loaded."""
        await self._fleet.start()
        names = self._service.settings.plan.resident_at_start
        results = await asyncio.gather(*(self._fleet.load(name) for name in names), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        unexpected = [error for error in errors if not isinstance(error, VramLLMError)]
        if unexpected or (errors and len(errors) == len(names)):
            raise (unexpected or errors)[0]
        self._parts.readiness.become_ready()
        self._service.on_ready()
        gc.collect()
        gc.freeze()  # these objects stay: looking through them all again would delay streams

    async def _drain(self, grace_s: float) -> None:
        self._parts.readiness.stop()
        self._parts.events.end()
        await self._fleet.drain(grace_s)

    def _reload_soon(self) -> None:
        """Read the configuration again; once more at the end if it is being read now."""
        self._waits_for_reload = True
        if self._reloading is None or self._reloading.done():
            self._reloading = run_in_background(self._reload(), self._background)

    async def _reload(self) -> None:
        while self._waits_for_reload:
            self._waits_for_reload = False
            with contextlib.suppress(RequestError):  # the log has it
                await self._parts.reloader.reload()

    async def _watch_installed(self) -> None:
        """Read the configuration again whenever models were installed or removed."""
        installed = self._service.installed
        if installed is None:
            return
        before: object = None  # not known yet
        failure = ""
        while True:
            try:
                now = await asyncio.to_thread(installed)
            except Exception as error:  # of many kinds: a file that cannot be read, a folder that is away
                if str(error) != failure:
                    log.warning("the installed models cannot be listed; the server looks again: %s", error)
                failure = str(error)
            else:
                failure = ""
                if before not in (None, now):
                    self._reload_soon()
                before = now
            await asyncio.sleep(_LOOK_EVERY_S)  # between two looks at the file
