"""Memory of devices and of the host, in bytes. The fields are flat because a plan is saved as JSON."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes in llama.cpp's buffers on one device, or on the host, by purpose."""

    weights_bytes: int = 0
    context_bytes: int = 0
    compute_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Sum of all three."""
        return self.weights_bytes + self.context_bytes + self.compute_bytes

    def __add__(self, other: "MemoryUse") -> "MemoryUse":
        """The sum, field by field."""
        return MemoryUse(
            self.weights_bytes + other.weights_bytes,
            self.context_bytes + other.context_bytes,
            self.compute_bytes + other.compute_bytes,
        )


class _Budgeted:
    """The methods of an estimate that has the fields below; a device has more of them than the host."""

    __slots__ = ()

    weights_bytes: int
    context_bytes: int
    compute_bytes: int
    total_bytes: int
    budget_bytes: int

    @property
    def use(self) -> MemoryUse:
        """Memory of the model alone."""
        return MemoryUse(self.weights_bytes, self.context_bytes, self.compute_bytes)

    @property
    def over_bytes(self) -> int:
        """Bytes over the budget; negative if there is room."""
        return self.total_bytes - self.budget_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEstimate(_Budgeted):
    """Bytes one device will hold. `budget_bytes` is its free memory less the reserve.

    Of a device that shares the host's memory it is at most what the host and other such devices leave there.
    """

    id: str
    weights_bytes: int
    context_bytes: int
    compute_bytes: int
    overhead_bytes: int
    total_bytes: int
    budget_bytes: int
    companion_bytes: int = 0  # of adapters, projector and draft model
    shared_bytes: int = 0  # of total_bytes, those in the host's memory

    @classmethod
    def of(
        cls, id: str, use: MemoryUse, *, overhead_bytes: int, budget_bytes: int, companion_bytes: int = 0
    ) -> "DeviceEstimate":
        """Device `id` holding `use` for the model, `companion_bytes` for other files, and the overhead."""
        return cls(
            id=id,
            weights_bytes=use.weights_bytes,
            context_bytes=use.context_bytes,
            compute_bytes=use.compute_bytes,
            overhead_bytes=overhead_bytes,
            total_bytes=use.total_bytes + overhead_bytes + companion_bytes,
            budget_bytes=budget_bytes,
            companion_bytes=companion_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEstimate(_Budgeted):
    """Bytes the host will hold. `budget_bytes` is its available memory less the reserve.

    Bytes of devices that share this memory are not in it: they are taken from the budget.
    """

    weights_bytes: int
    context_bytes: int
    compute_bytes: int
    total_bytes: int  # in memory
    budget_bytes: int
    companion_bytes: int = 0  # of adapters, projector and draft model
    disk_bytes: int = 0  # of weights_bytes, those that stay in the mapped file

    @classmethod
    def of(cls, use: MemoryUse, *, budget_bytes: int, companion_bytes: int = 0) -> "HostEstimate":
        """The host holding `use` for the model, and `companion_bytes` for other files."""
        return cls(
            weights_bytes=use.weights_bytes,
            context_bytes=use.context_bytes,
            compute_bytes=use.compute_bytes,
            total_bytes=use.total_bytes + companion_bytes,
            budget_bytes=budget_bytes,
            companion_bytes=companion_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Memory of a placement, by device and kind. `method` names the meter.

    A graph split is a run of operations on one device; its inputs are copied there.
    """

    method: str
    devices: tuple[DeviceEstimate, ...]
    host: HostEstimate
    graph_splits: int | None = None  # of a decode step with all sequences; None: not counted
    prompt_graph_splits: int | None = None  # of a micro-batch of a prompt

    @property
    def fits(self) -> bool:
        """True if no device is over its budget, nor the host."""
        return self.host.over_bytes <= 0 and all(d.over_bytes <= 0 for d in self.devices)

    @property
    def short_devices(self) -> tuple[tuple[str, int], ...]:
        """The devices over their budgets, each with the bytes; the host stands for those in its pool."""
        is_pool_short = self.host.over_bytes > 0
        apart = (use for use in self.devices if not (is_pool_short and use.shared_bytes))
        return tuple((use.id, use.over_bytes) for use in apart if use.over_bytes > 0)

    @property
    def short_bytes(self) -> int:
        """Bytes over the budgets, summed over all devices and the host."""
        return max(self.host.over_bytes, 0) + sum(n_bytes for _, n_bytes in self.short_devices)
