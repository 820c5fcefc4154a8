"""GET /status: devices, load and requests in one object, for dashboards and `vram-llm watch`."""

from collections.abc import Iterable

from fastapi import APIRouter

from vram_llm._version import __version__
from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request_metrics import RequestSnapshot
from vram_llm.server.metrics.device_status import devices_of, host_of
from vram_llm.server.metrics.shown_requests import shown_requests
from vram_llm.server.metrics.status_reply import (
    EnginePhase,
    StatusEngine,
    StatusLoad,
    StatusModel,
    StatusReply,
    StatusRequest,
    StatusTotals,
)
from vram_llm.server.metrics.system_readings import SystemReadings
from vram_llm.server.serving_context import ServingContext

_PHASES: dict[EngineState, EnginePhase] = {
    EngineState.READY: "ready",
    EngineState.STOPPING: "stopping",
    EngineState.DEAD: "failed",
}


def status_router(serving: ServingContext, readings: SystemReadings) -> APIRouter:
    """The route that answers in every state of the engine.

    On a server that is open to everybody, nobody learns which programs run, nor ids of others' requests.
    """
    router = APIRouter(tags=["metrics"])

    @router.get("/status", summary="Devices, load and requests")
    async def status() -> StatusReply:
        activity, engine = serving.engine.activity, serving.engine
        reading = await readings.latest(activity.pid)
        plan, info = activity.plan, engine.info
        devices = devices_of(plan, info, activity.pid, reading)
        if serving.is_asked_by_stranger:
            devices = [device.model_copy(update={"processes": None}) for device in devices]
        return StatusReply(
            version=__version__,
            model=StatusModel(
                id=plan.model.name if info is None else info.name,
                file=plan.model.path,
                n_ctx=plan.context.n_ctx,
                parallel=plan.context.parallel,
            ),
            engine=_engine(engine, activity),
            devices=devices,
            host=host_of(plan, info, reading),
            load=_load(activity),
            totals=_totals(activity),
            requests=_requests(shown_requests(serving)),
        )

    return router


def phase_of(engine: Engine) -> EnginePhase:
    """The engine's state; after a load, LOADING means that it is started again."""
    loading: EnginePhase = "loading" if engine.info is None else "restarting"
    return _PHASES.get(engine.state, loading)


def _engine(engine: Engine, activity: EngineActivity) -> StatusEngine:
    return StatusEngine(
        state=phase_of(engine),
        reason=engine.detail or None,
        n_restarts=activity.n_restarts,
        uptime_s=activity.uptime_s,
    )


def _load(activity: EngineActivity) -> StatusLoad:
    recent, speed = activity.recent, activity.plan.speed
    return StatusLoad(
        n_running=activity.n_running,
        n_waiting=activity.n_waiting,
        kv_usage=activity.kv_usage,
        prompt_tokens_per_s=recent.prompt_tokens_per_s,
        generation_tokens_per_s=recent.generation_tokens_per_s,
        prefix_hit_rate=activity.prefix_hit_rate,
        time_to_first_token_s=recent.time_to_first_token_s,
        inter_token_latency_s=recent.inter_token_latency_s,
        predicted_tokens_per_s=None if speed is None else speed.tokens_per_s,
    )


def _totals(activity: EngineActivity) -> StatusTotals:
    totals = activity.totals
    return StatusTotals(
        prompt_tokens=totals.n_begun_prompt_tokens,
        generation_tokens=totals.n_generated_tokens,
        cached_tokens=totals.n_begun_cached_tokens,
        preemptions=totals.n_preemptions,
        drafted_tokens=totals.n_drafted_tokens,
        accepted_tokens=totals.n_accepted_tokens,
    )


def _requests(requests: Iterable[RequestSnapshot]) -> list[StatusRequest]:
    return [
        StatusRequest(
            id=request.id,
            state=request.state,
            prompt_tokens=request.prompt_tokens,
            cached_tokens=request.cached_tokens,
            generated_tokens=request.generated_tokens,
            age_s=request.age_s,
        )
        for request in requests
    ]
