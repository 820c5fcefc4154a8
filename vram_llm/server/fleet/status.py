"""GET /status and /slots of a fleet: sums over its models, and each model."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query

from vram_llm._version import __version__
from vram_llm.engine.activity import EngineActivity
from vram_llm.fleet.snapshots import FleetModel
from vram_llm.server.api_keys import current_key
from vram_llm.server.errors import NotReady, Unavailable
from vram_llm.server.fleet.context import FleetContext
from vram_llm.server.fleet.machine_status import RunningModel, fleet_devices, fleet_host, running_models
from vram_llm.server.fleet.ports import ServedFleet
from vram_llm.server.fleet.readiness import Readiness
from vram_llm.server.fleet.routed_models import RoutedModel, RoutedModels
from vram_llm.server.metrics.shown_requests import shown
from vram_llm.server.metrics.slots import SlotNumbers, SlotState, check_is_on, slot_states
from vram_llm.server.metrics.status import (
    engine_status,
    load_status,
    model_status,
    request_status,
    totals_status,
)
from vram_llm.server.metrics.status_reply import (
    StatusEngine,
    StatusFleetModel,
    StatusLoad,
    StatusReply,
    StatusTotals,
)
from vram_llm.server.metrics.system_readings import SystemReadings
from vram_llm.server.openapi import refusals


def fleet_status_router(
    context: FleetContext,
    fleet: ServedFleet,
    models: RoutedModels,
    readiness: Readiness,
    readings: SystemReadings,
) -> APIRouter:
    """The route. Like that of one model, it hides other clients' ids on a server that is open to all."""
    router = APIRouter(tags=["metrics"])

    @router.get("/status", summary="Models, devices, load and requests")
    async def status() -> StatusReply:
        reading = await readings.latest(None)
        running = running_models(fleet, models)
        is_stranger = context.is_asked_by_stranger
        devices = fleet_devices(models.settings.plan.devices, running, reading)
        if is_stranger:
            devices = [device.model_copy(update={"processes": None}) for device in devices]
        first = next(iter(models))
        by_name = {each.model.name: each for each in running}
        known = [activity for model in models if (activity := fleet.activity(model.name)) is not None]
        return StatusReply(
            version=__version__,
            model=model_status(first.name, first.plan),
            engine=StatusEngine(
                state=readiness.phase, reason=readiness.reason, uptime_s=readiness.uptime_s,
                n_restarts=sum(activity.n_restarts for activity in known),
            ),
            devices=devices,
            host=fleet_host(running, reading),
            load=_load([each.activity for each in running]),
            totals=_totals(known),
            requests=[
                request_status(request, each.model.name)
                for each in running
                for request in shown(each.activity.requests, is_stranger=is_stranger)
            ],
            models=[
                _fleet_model(model, fleet.snapshot(model.name), by_name.get(model.name)) for model in models
            ],
        )  # fmt: skip

    return router


def fleet_slots_router(context: FleetContext, fleet: ServedFleet, models: RoutedModels) -> APIRouter:
    """The slots of all models that are loaded; ?model=NAME: those of one."""
    router = APIRouter(tags=["metrics"])
    numbers: dict[str, SlotNumbers] = {}

    @router.get("/slots", summary="Sequences that are computed", responses=refusals(404, 501, 503))
    async def slots(
        model: Annotated[str, Query()] = "", fail_on_no_slot: Annotated[str, Query()] = ""
    ) -> list[SlotState]:
        check_is_on(context.config)
        wanted = models.resolve(model, current_key.get())[0].name if model else None
        found: list[SlotState] = []
        for each in running_models(fleet, models):
            name, info = each.model.name, each.engine.info
            if info is None or wanted not in (None, name):
                continue
            requests = shown(each.activity.requests, is_stranger=context.is_asked_by_stranger)
            states = slot_states(info, each.activity, requests, numbers.setdefault(name, SlotNumbers()))
            found += [state.model_copy(update={"model": name}) for state in states]
        if wanted is not None and not found:
            raise NotReady(f"The model '{wanted}' is not loaded")
        if fail_on_no_slot and all(state.is_processing for state in found):
            raise Unavailable("no slot available")
        return found

    return router


def _fleet_model(model: RoutedModel, now: FleetModel, running: RunningModel | None) -> StatusFleetModel:
    return StatusFleetModel(
        id=model.name,
        state=now.state.value,
        detail=now.detail or None,
        why=now.why,
        device_bytes=dict(now.bytes_by_device),
        n_ctx=model.plan.context.n_ctx,
        replicas=model.n_replicas,
        waiting=now.waiting,
        in_flight=now.in_flight,
        idle_s=now.idle_s,
        n_loads=now.n_loads,
        load_s=now.load_s,
        pid=None if running is None else running.activity.pid,
        engine=None if running is None else engine_status(running.engine, running.activity),
        load=None if running is None else load_status(running.activity),
    )


def _load(activities: Sequence[EngineActivity]) -> StatusLoad:
    """The load of all engines. Times are means over the engines that have tokens; no sum is predicted."""
    loads = [load_status(activity) for activity in activities]

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    return StatusLoad(
        n_running=sum(load.n_running for load in loads),
        n_waiting=sum(load.n_waiting for load in loads),
        kv_usage=max((load.kv_usage for load in loads), default=0.0),
        prompt_tokens_per_s=sum(load.prompt_tokens_per_s for load in loads),
        generation_tokens_per_s=sum(load.generation_tokens_per_s for load in loads),
        prefix_hit_rate=_hit_rate(activities),
        time_to_first_token_s=mean([load.time_to_first_token_s for load in loads]),
        inter_token_latency_s=mean([load.inter_token_latency_s for load in loads]),
        predicted_tokens_per_s=None,
        predicted_tokens_per_s_range=None,
    )


def _hit_rate(activities: Sequence[EngineActivity]) -> float | None:
    n_prompt = sum(activity.totals.n_begun_prompt_tokens for activity in activities)
    n_cached = sum(activity.totals.n_begun_cached_tokens for activity in activities)
    return n_cached / n_prompt if n_prompt else None


def _totals(activities: Sequence[EngineActivity]) -> StatusTotals:
    names = StatusTotals.model_fields
    every = [totals_status(activity) for activity in activities]
    return StatusTotals(**{name: sum(getattr(totals, name) for totals in every) for name in names})
