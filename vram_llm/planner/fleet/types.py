"""A fleet as the user asks for it, and its plan. All frozen; a FleetPlan goes to JSON and back.

Names of devices are ids of `Device`, and "host" for the computer's own memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vram_llm.machine.types import Device, Source
from vram_llm.planner.types import Plan, Workload

FLEET_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetModelSpec:
    """A model of a fleet, as the user asks for it. `None` leaves the choice to the planner."""

    name: str  # unique in the fleet
    source: str  # a path, "hf:org/repo:Q4_K_M", or a name that `vram-llm models` lists
    aliases: tuple[str, ...] = ()
    workload: Workload = field(default_factory=Workload)
    devices: tuple[str, ...] | None = None  # ids that it may use; a pin is one id. None: all
    priority: int = 0  # models of a higher priority stay longer
    preload: bool = False  # load it at the start
    ttl_s: float | None = None  # unload it so long after its last request; None: never
    min_residency_s: float = 30.0  # while it is busy others unload it no earlier, or after ten loads' time
    replicas: int | None = 1  # whole copies; None: as many as give the most throughput


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSpec:
    """The models of a fleet in the user's order, and groups of their names."""

    models: tuple[FleetModelSpec, ...]
    together: tuple[frozenset[str], ...] = ()  # models of a group are loaded and unloaded together
    apart: tuple[frozenset[str], ...] = ()  # at most one model of a group is resident


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedReplica:
    """A place for one copy of a model: its plan, and the figures by which the fleet is packed."""

    devices: tuple[str, ...]  # ids in use; empty: the host alone
    uses: Mapping[str, int]  # bytes by device id and "host", with overhead and companions
    tokens_per_s: float | None  # of one stream, predicted
    throughput_tokens_per_s: float | None  # of all its streams together, predicted
    load_s: float | None  # from the disk to the devices, predicted
    load_basis: Source  # of load_s: the least trusted of its rates
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedModel:
    """A model of the fleet with its place. It is resident with all its replicas, or with none."""

    spec: FleetModelSpec
    replicas: tuple[PlacedReplica, ...]
    why: str  # the reasons for place and number of replicas, as a sentence

    @property
    def uses(self) -> dict[str, int]:
        """Bytes of all replicas by device id and "host"."""
        total: dict[str, int] = {}
        for replica in self.replicas:
            for device_id, n_bytes in replica.uses.items():
                total[device_id] = total.get(device_id, 0) + n_bytes
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """Where each model of a fleet is loaded, and which models fit together."""

    version: int
    models: tuple[PackedModel, ...]  # in the user's order
    devices: tuple[Device, ...]  # of the machine, as they were when the plan was made
    budgets: Mapping[str, int]  # bytes that models may use, by device id and "host"
    resident_at_start: tuple[str, ...]  # names of models; they fit together
    sets: tuple[frozenset[str], ...]  # maximal sets of models that fit together
    apart: tuple[frozenset[str], ...] = ()  # as the user asks
    together: tuple[frozenset[str], ...] = ()
    one_program: tuple[frozenset[str], ...] = ()  # groups of devices that serve one program at a time
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> PackedModel:
        """The model of this name. Raises KeyError."""
        for model in self.models:
            if model.spec.name == name:
                return model
        raise KeyError(name)
