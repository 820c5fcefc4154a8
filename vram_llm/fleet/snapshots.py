"""A fleet's models as others see them: states, snapshots, events."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from vram_llm.engine.model_info import ModelInfo


class ModelState(StrEnum):
    """Phase of a model in a fleet."""

    UNLOADED = "unloaded"  # the next request loads it
    QUEUED = "queued"  # requests wait for it, and others hold the memory
    LOADING = "loading"  # also between an engine's death and its restart
    RESIDENT = "resident"
    UNLOADING = "unloading"  # its last requests finish, or its process ends
    SLEEPING = "sleeping"  # unloaded by `sleep`: only a request loads it again
    FAILED = "failed"  # its last load failed; a request tries again


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetModel:
    """A model of a fleet as it is now."""

    name: str
    aliases: tuple[str, ...] = ()
    state: ModelState
    detail: str = ""  # one phrase about `state`: "loading, 43 %", or the error of the last load
    why: str = ""  # reasons for its place, from the fleet's plan
    devices: tuple[str, ...] = ()  # ids of the devices that it has, or would have
    bytes_by_device: Mapping[str, int] = field(default_factory=dict)  # and "host"; planned
    load_fraction: float = 0.0  # while it is LOADING
    waiting: int = 0  # requests without a lease
    in_flight: int = 0  # leases
    idle_s: float | None = None  # since the last lease ended; None: it has leases, or had none
    n_loads: int = 0  # since the fleet's start
    load_s: float | None = None  # of the last load, measured; before it, as predicted
    info: ModelInfo | None = None  # of the last load


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEvent:
    """A change of a model's state, or of its detail."""

    time: float  # Unix seconds
    model: str
    state: ModelState
    detail: str = ""
    load_fraction: float = 0.0
