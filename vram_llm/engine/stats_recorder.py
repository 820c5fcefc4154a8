"""Adds up the engine's figures as it works."""

from dataclasses import dataclass, field
from time import perf_counter, thread_time

from vram_llm.engine.kv_cache.prefix_cache import PrefixCache
from vram_llm.engine.sampling.device_slots import DeviceSamplerSlots
from vram_llm.engine.scheduler import Scheduler
from vram_llm.engine.stats import Figures


class Stopwatch:
    """Adds up the time between `start` and `stop`, or within `with`."""

    __slots__ = ("_cpu_from", "_from", "cpu_s", "last_s", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_s = 0.0  # of it, what this thread had of a processor
        self.last_s = 0.0
        self.start()

    def start(self) -> None:
        """Begin, or begin again."""
        self._from, self._cpu_from = perf_counter(), thread_time()

    def stop(self) -> None:
        """Add the time since `start`."""
        self.last_s = perf_counter() - self._from
        self.seconds += self.last_s
        self.cpu_s += thread_time() - self._cpu_from

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass(slots=True)
class Meter:
    """Adds up what steps cost. `turn` is the whole of what the engine does, the others parts of it."""

    turn: Stopwatch = field(default_factory=Stopwatch)
    llama: Stopwatch = field(default_factory=Stopwatch)
    sampling: Stopwatch = field(default_factory=Stopwatch)
    host_s: float = 0.0
    host_cpu_s: float = 0.0
    n_steps: int = 0
    n_prompt_tokens: int = 0
    n_generated_tokens: int = 0
    n_device_tokens: int = 0
    n_drafted_tokens: int = 0
    n_accepted_tokens: int = 0
    n_guessed_tokens: int = 0
    n_right_tokens: int = 0

    def end_turn(self) -> None:
        """A turn of the engine is over, messages and all; what is not counted yet was the host's."""
        self.turn.stop()
        self.host_s = self.turn.seconds - self.llama.seconds - self.sampling.seconds
        self.host_cpu_s = self.turn.cpu_s - self.llama.cpu_s - self.sampling.cpu_s

    def figures(self, scheduler: Scheduler, cache: PrefixCache, seats: DeviceSamplerSlots | None) -> Figures:
        """These counts, and what there is now."""
        return Figures(
            n_steps=self.n_steps,
            llama_s=self.llama.seconds,
            sampling_s=self.sampling.seconds,
            host_s=self.host_s,
            host_cpu_s=self.host_cpu_s,
            n_prompt_tokens=self.n_prompt_tokens,
            n_generated_tokens=self.n_generated_tokens,
            n_device_tokens=self.n_device_tokens,
            n_reserved=0 if seats is None else seats.n_reserved,
            reserve_s=0.0 if seats is None else seats.reserve_s,
            n_drafted_tokens=self.n_drafted_tokens,
            n_accepted_tokens=self.n_accepted_tokens,
            n_guessed_tokens=self.n_guessed_tokens,
            n_right_tokens=self.n_right_tokens,
            n_running=len(scheduler.running),
            n_waiting=len(scheduler.waiting),
            n_cells=cache.n_cells,
            n_cells_used=cache.n_used,
            n_cells_idle=cache.n_idle_cells,
            n_prefix_hits=cache.n_hits,
            n_prefix_tokens=cache.n_reused,
            n_preemptions=scheduler.n_preemptions,
            n_moved_to_host=cache.n_moved,
            host_bytes=cache.store.ram_used_bytes,
            disk_bytes=cache.store.disk_used_bytes,
        )
