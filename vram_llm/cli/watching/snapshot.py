"""One moment in `watch`: of a server by its /status, or of this computer by its drivers."""

from dataclasses import dataclass, field

import msgspec

from vram_llm.errors import ServerUnreachable
from vram_llm.machine.device_readings import DeviceReading
from vram_llm.machine.device_state import DeviceState, state_of
from vram_llm.machine.device_warnings import device_warnings
from vram_llm.machine.health_warnings import HealthWarning, HostMemory, host_warnings
from vram_llm.machine.host import HostReading


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedModel:
    """The served model. `n_ctx` counts the cells of all `parallel` sequences together."""

    id: str
    n_ctx: int | None = None
    parallel: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedEngine:
    """The engine process."""

    state: str  # "loading", "ready", "restarting", "stopping", "failed"
    reason: str | None = None
    n_restarts: int = 0
    uptime_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedHost:
    """The host's memory."""

    total_bytes: int
    available_bytes: int
    swap_used_bytes: int | None = None
    own_bytes: int | None = None  # of the engine


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedLoad:
    """The load of the last seconds; None: unknown, or there was no token."""

    n_running: int = 0
    n_waiting: int = 0
    kv_usage: float | None = None  # 0 to 1
    prompt_tokens_per_s: float | None = None
    generation_tokens_per_s: float | None = None
    prefix_hit_rate: float | None = None  # 0 to 1
    time_to_first_token_s: float | None = None
    inter_token_latency_s: float | None = None
    predicted_tokens_per_s: float | None = None  # of one stream, by the plan


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedTotals:
    """Counts since the server's start."""

    drafted_tokens: int = 0  # by prompt lookup, a draft model or an MTP head
    accepted_tokens: int = 0  # of the drafted ones


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedFleetModel:
    """A model of a fleet. Bytes are planned, by device id and "host", also while it is unloaded."""

    id: str
    state: str  # "unloaded", "queued", "loading", "resident", "unloading", "sleeping", "failed"
    detail: str | None = None
    device_bytes: dict[str, int] = field(default_factory=dict)
    waiting: int = 0  # requests that wait for its load
    in_flight: int = 0
    load: WatchedLoad | None = None  # None: it is not loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedRequest:
    """A request in flight."""

    id: str
    state: str  # "waiting", "prefill", "decode"
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    generated_tokens: int = 0
    age_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`watch --once --json`."""

    address: str | None  # of the server; None: this computer without a server
    note: str | None = None  # why there is no server
    server_version: str | None = None
    model: WatchedModel | None = None
    engine: WatchedEngine | None = None
    load: WatchedLoad | None = None
    totals: WatchedTotals | None = None
    devices: tuple[DeviceState, ...] = ()
    host: WatchedHost | None = None
    requests: tuple[WatchedRequest, ...] = ()
    models: tuple[WatchedFleetModel, ...] | None = None  # of a fleet; None: the server has one model
    warnings: tuple[HealthWarning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _StatusDocument:
    """The parts of a /status that are shown; a server of another version may have more or fewer."""

    version: str | None = None
    model: WatchedModel | None = None
    engine: WatchedEngine | None = None
    load: WatchedLoad | None = None
    totals: WatchedTotals | None = None
    devices: tuple[DeviceState, ...] = ()
    host: WatchedHost | None = None
    requests: tuple[WatchedRequest, ...] = ()
    models: tuple[WatchedFleetModel, ...] | None = None


def of_server(address: str, body: bytes, swapped_before_bytes: int | None = None) -> Snapshot:
    """The snapshot of a server from the body of its /status. Raises ServerUnreachable if it is no /status."""
    try:
        status = msgspec.json.decode(body, type=_StatusDocument)
    except msgspec.MsgspecError as error:
        raise ServerUnreachable(
            f"the program at {address} is not vram-llm: its /status has another form ({error})"
        ) from None
    return Snapshot(
        address=address,
        server_version=status.version,
        model=status.model,
        engine=status.engine,
        load=status.load,
        totals=status.totals,
        devices=status.devices,
        host=status.host,
        requests=status.requests,
        models=status.models,
        warnings=_warnings(status.devices, status.host, swapped_before_bytes),
    )


def of_machine(
    cards: tuple[DeviceReading, ...], host: HostReading, swapped_before_bytes: int | None = None
) -> Snapshot:
    """The snapshot of this computer from its drivers."""
    devices = tuple(map(state_of, cards))
    memory = WatchedHost(
        total_bytes=host.total_bytes,
        available_bytes=host.available_bytes,
        swap_used_bytes=host.swap_used_bytes,
    )
    warnings = _warnings(devices, memory, swapped_before_bytes)
    return Snapshot(address=None, devices=devices, host=memory, warnings=warnings)


def _warnings(
    devices: tuple[DeviceState, ...], host: WatchedHost | None, swapped_before_bytes: int | None
) -> tuple[HealthWarning, ...]:
    found = [warning for device in devices for warning in device_warnings(device)]
    if host is not None:
        memory = HostMemory(
            total_bytes=host.total_bytes,
            available_bytes=host.available_bytes,
            swap_used_bytes=host.swap_used_bytes,
        )
        found += host_warnings(memory, swapped_before_bytes)
    return tuple(found)
