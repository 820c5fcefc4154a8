"""Our own metrics: memory planned and held by kind, what the driver reads, and where a step's time goes."""

from collections.abc import Iterable, Sequence

from vram_llm._version import __version__
from vram_llm.engine.activity import EngineActivity
from vram_llm.machine.device_readings import THROTTLE_REASONS
from vram_llm.planner.types import HOST
from vram_llm.server.metrics.families import Families, FamilySink, Labelled
from vram_llm.server.metrics.status_reply import BufferBytes, EnginePhase, StatusDevice, StatusHost

_PREFIX = "vram_llm:"
_PHASES: tuple[EnginePhase, ...] = ("loading", "ready", "restarting", "stopping", "failed")
_DEVICE = ("device", "name")
_GAUGES = (
    ("device_total_bytes", "Memory.", "total_bytes"),
    ("device_free_bytes", "Free memory, by the driver.", "free_bytes"),
    ("device_own_bytes", "Memory of the engine's process, by the driver.", "own_bytes"),
    ("device_other_bytes", "Memory of other programs, by the driver.", "other_bytes"),
    ("device_utilization_ratio", "Share of the time in which a kernel ran.", "utilization"),
    ("device_memory_utilization_ratio", "Share of the time in which memory was used.", "memory_utilization"),
    ("device_temperature_celsius", "Temperature.", "temperature_c"),
    ("device_power_watts", "Power.", "power_w"),
    ("device_power_limit_watts", "Limit of the power.", "power_limit_w"),
    ("device_clock_mhz", "Clock of the processors.", "clock_mhz"),
    ("device_max_clock_mhz", "Highest clock of the processors.", "max_clock_mhz"),
    ("device_memory_clock_mhz", "Clock of the memory.", "memory_clock_mhz"),
    ("device_fan_ratio", "Speed of the fan, 0 to 1.", "fan"),
    ("device_ecc_errors", "Uncorrected memory errors since the driver was loaded.", "ecc_errors"),
    ("device_display_attached", "1: a display is connected.", "display_attached"),
)
_PCIE_GAUGES = (
    ("device_pcie_generation", "Generation of the link now.", "generation"),
    ("device_pcie_max_generation", "Generation of the link at most.", "max_generation"),
    ("device_pcie_width", "Lanes of the link now.", "width"),
    ("device_pcie_max_width", "Lanes of the link at most.", "max_width"),
    ("device_pcie_rx_bytes_per_second", "Traffic to the card.", "rx_bytes_per_s"),
    ("device_pcie_tx_bytes_per_second", "Traffic from the card.", "tx_bytes_per_s"),
)


def add_own_families(
    sink: FamilySink,
    activity: EngineActivity,
    phase: EnginePhase,
    devices: Sequence[StatusDevice],
    host: StatusHost,
) -> None:
    """Add the families; devices and host are those of /status."""
    add_engine_families(sink, activity, phase, devices, host)
    add_machine_families(sink, devices, host)


def add_engine_families(
    sink: FamilySink,
    activity: EngineActivity,
    phase: EnginePhase,
    devices: Sequence[StatusDevice],
    host: StatusHost,
) -> None:
    """Add the families of one engine, with the memory that its plan has and that it holds."""
    families = Families(sink, _PREFIX, {})
    _add_engine(families, activity, phase)
    _add_steps(families, activity)
    _add_cache(families, activity)
    _add_memory(families, devices, host)


def add_machine_families(sink: FamilySink, devices: Sequence[StatusDevice], host: StatusHost) -> None:
    """Add the families of the computer: the version, the host's memory, the driver's readings."""
    families = Families(sink, _PREFIX, {})
    families.gauges("build_info", "The version.", ("version",), [((__version__,), 1)])
    for name, text, value in (
        ("host_total_bytes", "The host's memory.", host.total_bytes),
        ("host_available_bytes", "The host's available memory.", host.available_bytes),
        ("host_own_bytes", "Memory of the engine's process, mapped files included.", host.own_bytes),
        ("host_swap_used_bytes", "Memory in swap.", host.swap_used_bytes),
    ):
        families.gauge(name, text, value)
    _add_readings(families, devices)


def _add_engine(families: Families, activity: EngineActivity, phase: EnginePhase) -> None:
    speed = activity.plan.speed
    families.gauges("engine_state", "1: the engine's state.", ("state",), _one_of(phase, _PHASES))
    families.counter("engine_restarts", "Times that the engine was started again.", activity.n_restarts)
    families.gauge("engine_uptime_seconds", "Time since the load.", activity.uptime_s)
    states = [request.state for request in activity.requests]
    samples = [((state,), states.count(state)) for state in ("waiting", "prefill", "decode")]
    families.gauges("requests", "Requests in flight.", ("state",), samples)
    predicted = None if speed is None else speed.tokens_per_s
    families.gauge("predicted_tokens_per_second", "Of one stream, by the plan.", predicted)
    recent = activity.recent
    for name, text, value in (
        ("prompt_tokens_per_second", "Computed in the last five seconds.", recent.prompt_tokens_per_s),
        ("generation_tokens_per_second", "Of the last five seconds.", recent.generation_tokens_per_s),
    ):
        families.gauge(name, text, value)


def _add_steps(families: Families, activity: EngineActivity) -> None:
    totals = activity.totals
    families.counter("steps", "Steps of the engine.", totals.n_steps)
    parts = (("llama.cpp", totals.llama_s), ("sampling", totals.sampling_s), ("host", totals.host_s))
    samples = [((part,), seconds) for part, seconds in parts]
    families.counters("step_seconds", "Time of steps by its part.", ("part",), samples)
    families.counter("computed_prompt_tokens", "Prompt tokens, without cached ones.", totals.n_prompt_tokens)
    families.counter("device_sampled_tokens", "Tokens that a device sampled.", totals.n_device_tokens)
    by_model, accepted = totals.n_model_drafted_tokens, totals.n_model_accepted_tokens
    drafted = [(("model",), by_model), (("lookup",), totals.n_drafted_tokens - by_model)]
    taken = [(("model",), accepted), (("lookup",), totals.n_accepted_tokens - accepted)]
    families.counters("drafted_tokens", "Tokens of drafts.", ("source",), drafted)
    families.counters("accepted_tokens", "Tokens of drafts that were accepted.", ("source",), taken)


def _add_cache(families: Families, activity: EngineActivity) -> None:
    totals = activity.totals
    families.counter("prefix_cache_hits", "Requests that reused cells.", totals.n_prefix_hits)
    families.counter(
        "prefix_cache_saved_tokens", "Tokens of prompts that were not computed again.", totals.n_prefix_tokens
    )
    families.counter("preemptions", "Times that a request was preempted.", totals.n_preemptions)
    families.counter("offloaded_states", "States moved to the host.", totals.n_offloaded)
    running, idle = totals.n_cells_used - totals.n_cells_idle, totals.n_cells_idle
    free = totals.n_cells - totals.n_cells_used
    cells = [(("running",), running), (("idle",), idle), (("free",), free)]
    families.gauges("kv_cells", "KV cells; idle ones are kept for later requests.", ("state",), cells)
    offloaded = [(("host",), totals.host_bytes), (("disk",), totals.disk_bytes)]
    families.gauges("offloaded_bytes", "Memory of states outside the devices.", ("place",), offloaded)


def _add_memory(families: Families, devices: Sequence[StatusDevice], host: StatusHost) -> None:
    places: list[tuple[str, str, StatusDevice | StatusHost]] = [(d.id, d.name, d) for d in devices]
    places.append((HOST, HOST, host))
    labels = (*_DEVICE, "kind")
    planned = [sample for i, name, each in places for sample in _by_kind(i, name, each.planned)]
    held = [sample for i, name, each in places for sample in _by_kind(i, name, each.measured)]
    families.gauges("device_planned_bytes", "Memory that the plan gives to each kind.", labels, planned)
    families.gauges("device_held_bytes", "Memory of llama.cpp's buffers, by llama.cpp.", labels, held)


def _add_readings(families: Families, devices: Sequence[StatusDevice]) -> None:
    for name, text, field in _GAUGES:
        families.gauges(
            name, text, _DEVICE, [((each.id, each.name), getattr(each, field)) for each in devices]
        )
    for name, text, field in _PCIE_GAUGES:
        samples = [((e.id, e.name), getattr(e.pcie, field)) for e in devices if e.pcie is not None]
        families.gauges(name, text, _DEVICE, samples)
    throttled = [
        ((each.id, each.name, reason), float(reason in each.throttle_reasons))
        for each in devices
        if each.throttle_reasons is not None
        for reason in THROTTLE_REASONS.values()
    ]
    families.gauges("device_throttled", "1: the reason slows the clock.", (*_DEVICE, "reason"), throttled)


def _by_kind(device_id: str, name: str, found: BufferBytes | None) -> Labelled:
    """The bytes of each kind; none if there is no report."""
    if found is None:
        return []
    figures: Iterable[tuple[str, int]] = found
    return [((device_id, name, kind.removesuffix("_bytes")), n_bytes) for kind, n_bytes in figures]


def _one_of(now: str, every: Sequence[str]) -> Labelled:
    return [((each,), float(each == now)) for each in every]
