"""GET /status: devices, load and requests in one object, for dashboards and `vram-llm watch`."""

from fastapi import APIRouter

from vram_llm._version import __version__
from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request_metrics import RequestSnapshot
from vram_llm.planner.types import Plan
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
            model=model_status(plan.model.name if info is None else info.name, plan),
            engine=engine_status(engine, activity),
            devices=devices,
            host=host_of(plan, info, reading),
            load=load_status(activity),
            totals=totals_status(activity),
            requests=[request_status(request) for request in shown_requests(serving)],
        )

    return router


def phase_of(engine: Engine) -> EnginePhase:
    """The engine's state; after a load, LOADING means that it is started again."""
    loading: EnginePhase = "loading" if engine.info is None else "restarting"
    return _PHASES.get(engine.state, loading)


def model_status(name: str, plan: Plan) -> StatusModel:
    """The model of a plan."""
    return StatusModel(
        id=name, file=plan.model.path, n_ctx=plan.context.n_ctx, parallel=plan.context.parallel
    )


def engine_status(engine: Engine, activity: EngineActivity) -> StatusEngine:
    """The state of an engine."""
    return StatusEngine(
        state=phase_of(engine),
        reason=engine.detail or None,
        n_restarts=activity.n_restarts,
        uptime_s=activity.uptime_s,
    )


def load_status(activity: EngineActivity) -> StatusLoad:
    """The load of an engine."""
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
        predicted_tokens_per_s_range=None if speed is None else speed.tokens_per_s_range,
    )


def totals_status(activity: EngineActivity) -> StatusTotals:
    """The counts of an engine."""
    totals = activity.totals
    return StatusTotals(
        prompt_tokens=totals.n_begun_prompt_tokens,
        generation_tokens=totals.n_generated_tokens,
        cached_tokens=totals.n_begun_cached_tokens,
        preemptions=totals.n_preemptions,
        drafted_tokens=totals.n_drafted_tokens,
        accepted_tokens=totals.n_accepted_tokens,
    )


def request_status(request: RequestSnapshot, model: str | None = None) -> StatusRequest:
    """A request in flight; `model` is its model's name where there are several."""
    return StatusRequest(
        id=request.id,
        model=model,
        state=request.state,
        prompt_tokens=request.prompt_tokens,
        cached_tokens=request.cached_tokens,
        generated_tokens=request.generated_tokens,
        age_s=request.age_s,
    )
