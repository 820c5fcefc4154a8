"""How llama.cpp's threads use the processor: ggml_threadpool_params and ggml_numa_strategy."""

from dataclasses import dataclass
from enum import StrEnum

MAX_CPUS = 512  # GGML_MAX_N_THREADS


class Numa(StrEnum):
    """Where threads run on a computer with several NUMA nodes."""

    DISTRIBUTE = "distribute"  # over all nodes
    ISOLATE = "isolate"  # on the node that the engine starts on
    NUMACTL = "numactl"  # where numactl allows


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadPool:
    """One pool of threads."""

    cpus: tuple[int, ...]  # that the threads may run on; empty: all
    strict: bool  # each thread runs on a CPU of its own
    priority: int  # -1 low, 0 normal, 1 medium, 2 high, 3 realtime
    poll: int  # 0 to 100: how long a thread waits busily for work

    @property
    def mask(self) -> str:
        """The CPUs in llama.cpp's form, a hexadecimal number."""
        return hex(sum(1 << cpu for cpu in self.cpus))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorUse:
    """The user's wishes. Fields for steps of several tokens are None if they are as for single tokens.

    The CPUs of a mask and of a range are used together, as in llama.cpp.
    """

    numa: Numa | None = None
    cpu_mask: tuple[int, ...] = ()
    cpu_range: tuple[int, ...] = ()
    cpu_strict: bool = False
    priority: int = 0
    poll: int = 50  # llama.cpp's default
    cpu_mask_batch: tuple[int, ...] | None = None
    cpu_range_batch: tuple[int, ...] | None = None
    cpu_strict_batch: bool | None = None
    priority_batch: int | None = None
    poll_batch: int | None = None

    @property
    def pool(self) -> ThreadPool:
        """The pool for steps of one token."""
        return ThreadPool(
            cpus=_union(self.cpu_mask, self.cpu_range),
            strict=self.cpu_strict,
            priority=self.priority,
            poll=self.poll,
        )

    @property
    def batch_pool(self) -> ThreadPool:
        """The pool for steps of several tokens."""
        own = self.pool
        has_cpus = self.cpu_mask_batch is not None or self.cpu_range_batch is not None
        return ThreadPool(
            cpus=_union(self.cpu_mask_batch or (), self.cpu_range_batch or ()) if has_cpus else own.cpus,
            strict=own.strict if self.cpu_strict_batch is None else self.cpu_strict_batch,
            priority=own.priority if self.priority_batch is None else self.priority_batch,
            poll=own.poll if self.poll_batch is None else self.poll_batch,
        )

    @property
    def has_pools(self) -> bool:
        """Whether a pool differs from those that llama.cpp makes by itself."""
        return {self.pool, self.batch_pool} != {AS_USUAL.pool}


AS_USUAL = ProcessorUse()


def _union(mask: tuple[int, ...], cpus: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({*mask, *cpus}))


def cpus_of_mask(text: str) -> tuple[int, ...]:
    """The CPUs of a hexadecimal number, with or without 0x. Raises ValueError with a sentence."""
    try:
        bits = int(text, 16)
    except ValueError:
        bits = -1
    if bits <= 0 or bits.bit_length() > MAX_CPUS:
        raise ValueError(f"{text!r} is no mask of CPUs: write it like 0xff, with 1 to {MAX_CPUS} bits")
    return tuple(cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1)


def cpus_of_range(text: str) -> tuple[int, ...]:
    """The CPUs of "0-7"; "-7" begins at 0, "8-" ends at the last one. Raises ValueError with a sentence."""
    low, dash, high = text.partition("-")
    if not dash or not (low or "0").isdecimal() or not (high or "0").isdecimal():
        raise ValueError(f"{text!r} is no range of CPUs; write it like 0-7")
    first, last = int(low or 0), int(high or MAX_CPUS - 1)
    if not first <= last < MAX_CPUS:
        raise ValueError(f"{text!r} is no range of CPUs from 0 to {MAX_CPUS - 1}")
    return tuple(range(first, last + 1))
