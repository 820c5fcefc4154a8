"""Times of a decode step of one stream: of its devices, and of the sums that devices make together."""

from dataclasses import dataclass

from vram_llm.machine.types import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTime:
    """Time of one device, or of the host, in a decode step of one stream."""

    id: str
    seconds: float
    share: float  # of the step
    error: float | None = None  # |ln(measured / predicted)| of nine of ten measurements; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSums:
    """The sums of a tensor split in a decode step of one stream."""

    count: int
    seconds: float  # of each
    source: Source
    way: str  # how the devices add up: "NCCL over peer access"
    error: float  # |ln| of what the ratio of the times by layers and by tensors may be off
