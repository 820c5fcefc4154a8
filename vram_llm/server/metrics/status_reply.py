"""The reply to GET /status. Bytes are whole numbers, times are seconds, shares 0 to 1; null is unknown."""

from typing import Annotated, Literal

from pydantic import BaseModel

from vram_llm.planner.speed_range import SpeedRange
from vram_llm.server.replies import PRESENT

EnginePhase = Literal["loading", "ready", "restarting", "stopping", "failed"]


class StatusModel(BaseModel):
    """The served model. `n_ctx` counts the KV cells of all `parallel` sequences together."""

    id: str
    file: str
    n_ctx: int
    parallel: int


class StatusEngine(BaseModel):
    """The engine process. `reason` says why it does not serve; `uptime_s` counts from the load."""

    state: EnginePhase
    reason: str | None
    n_restarts: int
    uptime_s: float | None


class BufferBytes(BaseModel):
    """Bytes in llama.cpp's buffers, as it reports them after the load; a draft model's are included."""

    weights_bytes: int
    context_bytes: int
    compute_bytes: int


class PlannedBytes(BufferBytes):
    """Bytes of the plan here. The reserve stays free; companions are adapters, projector, draft model."""

    overhead_bytes: int
    reserve_bytes: int
    companions_bytes: int


class PartElsewhere(BaseModel):
    """Weights of some layers that are here although their layers are elsewhere."""

    part: str | None  # "experts", "ffn", ...; null: a pattern of the user's
    layers: list[int]


class StatusPcie(BaseModel):
    """The card's link. `rx` goes to the card."""

    generation: int | None
    width: int | None
    max_generation: int | None
    max_width: int | None
    rx_bytes_per_s: int | None
    tx_bytes_per_s: int | None


class StatusProcess(BaseModel):
    """A program with memory on the card."""

    pid: int
    name: str | None
    bytes: int | None


class StatusDevice(BaseModel):
    """A device of the plan. `measured` is llama.cpp's own figure, `own_bytes` the driver's for the engine."""

    index: int
    id: str
    name: str
    backend: str
    total_bytes: int
    free_bytes: int | None
    planned: PlannedBytes
    measured: BufferBytes | None
    own_bytes: int | None
    other_bytes: int | None
    layers: tuple[int, int] | None  # the first and the last
    moved: list[PartElsewhere]
    utilization: float | None
    memory_utilization: float | None
    temperature_c: int | None
    power_w: float | None
    power_limit_w: float | None
    clock_mhz: int | None
    max_clock_mhz: int | None
    memory_clock_mhz: int | None
    throttle_reasons: list[str] | None
    pcie: StatusPcie | None
    fan: float | None
    ecc_errors: int | None
    display_attached: bool | None
    processes: list[StatusProcess] | None


class StatusHost(BaseModel):
    """The computer. `own_bytes` are the engine's in memory, pages of the model's file among them."""

    total_bytes: int
    available_bytes: int
    swap_used_bytes: int
    planned: PlannedBytes
    measured: BufferBytes | None
    own_bytes: int | None
    layers: tuple[int, int] | None
    moved: list[PartElsewhere]


class StatusLoad(BaseModel):
    """The load now. Rates and times are those of the last five seconds; null: there was no token."""

    n_running: int
    n_waiting: int
    kv_usage: float
    prompt_tokens_per_s: float
    generation_tokens_per_s: float
    prefix_hit_rate: float | None  # since the start
    time_to_first_token_s: float | None
    inter_token_latency_s: float | None
    predicted_tokens_per_s: float | None  # of one stream, by the plan
    predicted_tokens_per_s_range: SpeedRange | None  # nine of ten measurements are in it


class StatusTotals(BaseModel):
    """Counts since the server's start, over restarts of the engine. Prompts include their cached tokens."""

    prompt_tokens: int
    generation_tokens: int
    cached_tokens: int
    preemptions: int
    drafted_tokens: int
    accepted_tokens: int


class StatusRequest(BaseModel):
    """A request in flight; `model` is there if the server has several."""

    id: str
    model: Annotated[str | None, PRESENT] = None
    state: Literal["waiting", "prefill", "decode"]
    prompt_tokens: int | None
    cached_tokens: int | None
    generated_tokens: int
    age_s: float


class StatusFleetModel(BaseModel):
    """A model of a fleet. Bytes are planned, by device id and "host"; null: nothing of it is loaded."""

    id: str
    state: str
    detail: str | None
    why: str  # it is on these devices
    device_bytes: dict[str, int]
    n_ctx: int
    replicas: int
    waiting: int
    in_flight: int
    idle_s: float | None
    n_loads: int
    load_s: float | None
    pid: int | None  # of the engine's process, the first replica's
    engine: StatusEngine | None
    load: StatusLoad | None


class StatusReply(BaseModel):
    """The state of the server. Of a fleet, loads and counts are sums, and `models` has each model."""

    version: str
    model: StatusModel
    engine: StatusEngine
    devices: list[StatusDevice]
    host: StatusHost
    load: StatusLoad
    totals: StatusTotals
    requests: list[StatusRequest]
    models: Annotated[list[StatusFleetModel] | None, PRESENT] = None
