"""The application in front of a fleet: the routes of one model, and one front that finds the model."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI

from vram_llm.server.api_keys import Keyring
from vram_llm.server.app import BODIES, add_limits, add_model_routes, add_routes, add_twice
from vram_llm.server.application import bare_app
from vram_llm.server.config import ServerConfig
from vram_llm.server.fleet.context import FleetContext
from vram_llm.server.fleet.facts import (
    fleet_cancel_router,
    fleet_health,
    fleet_props_router,
    fleet_root_facts,
)
from vram_llm.server.fleet.front import FleetFrontMiddleware
from vram_llm.server.fleet.metrics import fleet_metrics_router
from vram_llm.server.fleet.model_cards import fleet_models_router
from vram_llm.server.fleet.model_events import ModelEvents, events_router
from vram_llm.server.fleet.orders import ORDER_BODIES, orders_router
from vram_llm.server.fleet.ports import ServedFleet
from vram_llm.server.fleet.readiness import Readiness
from vram_llm.server.fleet.reloading import Reloader
from vram_llm.server.fleet.routed_models import RoutedModels
from vram_llm.server.fleet.status import fleet_slots_router, fleet_status_router
from vram_llm.server.fleet.what_if_routes import AskAbout, FleetPlanFields, fleet_plan_router
from vram_llm.server.health import health_router, root_router, version_router
from vram_llm.server.metrics.system_readings import SystemReadings
from vram_llm.server.openapi import document
from vram_llm.server.props import changing_props_router
from vram_llm.server.resumable.routes import resumable_router
from vram_llm.server.resumable.streams import ResumableStreams
from vram_llm.server.ui.log_ring import LogRing, logs_router
from vram_llm.server.ui.page import Page, page_router


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetParts:
    """The parts of a fleet's server that its application is made of, and that outlive each request.

    `about` answers what-if questions; None: POST /plan is refused.
    """

    fleet: ServedFleet
    models: RoutedModels
    readiness: Readiness
    reloader: Reloader
    events: ModelEvents
    about: AskAbout | None = None


def create_fleet_app(
    parts: FleetParts,
    config: ServerConfig,
    *,
    keyring: Keyring | None = None,
    hosts: frozenset[str] | None = None,
    clock: Callable[[], float] = time.time,
    logs: LogRing | None = None,
) -> FastAPI:
    """The endpoint of all models of a fleet, which the caller starts and stops.

    `config` is the server's; each model's settings are in `parts.models`. The other arguments are those of
    server.app.create_app. Raises BadKeysFile.
    """
    fleet, models, readiness = parts.fleet, parts.models, parts.readiness
    app = bare_app()
    app.add_middleware(FleetFrontMiddleware, fleet=fleet, models=models)
    streams = ResumableStreams(clock)
    add_limits(app, _AllQueues(fleet, models), config, keyring=keyring, hosts=hosts, streams=streams)
    context = FleetContext(config, clock)
    page, readings, created = Page(), SystemReadings(), int(clock())
    add_model_routes(app, context)
    add_routes(
        app, root_router(context, page, partial(fleet_root_facts, models, readiness)), version_router(),
        page_router(page), fleet_cancel_router(context, fleet, models),
        logs_router(logs or LogRing(), context), events_router(parts.events, models),
        orders_router(fleet, models, parts.reloader), fleet_props_router(fleet, models),
        fleet_status_router(context, fleet, models, readiness, readings),
        fleet_plan_router(fleet, models, parts.about),
        fleet_slots_router(context, fleet, models), fleet_metrics_router(fleet, models, readings),
    )  # fmt: skip
    add_twice(app, health_router(context, fleet_health(fleet, models, readiness)), documented="")
    add_twice(app, fleet_models_router(fleet, models, created, parts.reloader))
    add_twice(app, resumable_router(streams))
    add_routes(app, changing_props_router(config))
    app.openapi = partial(document, app, (*BODIES, *ORDER_BODIES, FleetPlanFields))  # type: ignore[method-assign]  # as FastAPI says
    return app


class _AllQueues:
    """The requests of all engines together."""

    def __init__(self, fleet: ServedFleet, models: RoutedModels) -> None:
        self._fleet = fleet
        self._models = models

    def seconds_until_done(self, n: int, client: str) -> float:
        """The expected time until any engine has ended `n` sequences of a client, in seconds."""
        engines = [self._fleet.engine(model.name) for model in self._models]
        waits = [engine.seconds_until_done(n, client) for engine in engines if engine is not None]
        return min(waits, default=1.0)
