"""The request to the child process that measures sums between devices, and its answer."""

import msgspec

from vram_llm.machine.types import Device


class SumsRequest(msgspec.Struct, frozen=True):
    """Measure the sums of a tensor split over `devices`, for `seconds`."""

    devices: tuple[Device, ...]
    n_threads: int  # of the host
    seconds: float


class SumTime(msgspec.Struct, frozen=True):
    """The time of one sum of a size."""

    n_bytes: int
    seconds: float


class SumTimes(msgspec.Struct, frozen=True, tag=True):
    """The times of sums of a token's activations, and of many tokens'."""

    few: SumTime
    many: SumTime

    @property
    def bytes_per_s(self) -> float:
        """The rate of the bytes; at least as fast as if the larger sum were bytes alone, times 100."""
        n_bytes = self.many.n_bytes - self.few.n_bytes
        return n_bytes / max(self.many.seconds - self.few.seconds, self.many.seconds / 100, 1e-9)

    @property
    def latency_s(self) -> float:
        """The time of a sum without its bytes."""
        return max(self.few.seconds - self.few.n_bytes / self.bytes_per_s, 0.0)
