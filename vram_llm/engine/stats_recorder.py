"""Adds up the engine's statistics as it works."""

from bisect import bisect_left
from dataclasses import dataclass, field
from time import perf_counter

from vram_llm.engine.kv_cache.prefix_cache import PrefixCache
from vram_llm.engine.sampling.device_slots import DeviceSamplerSlots
from vram_llm.engine.scheduler import Scheduler
from vram_llm.engine.stats import STEP_TOKENS, EngineStats


class Stopwatch:
    """Adds up the time between `start` and `stop`, or inside `with`."""

    __slots__ = ("_from", "last_s", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.last_s = 0.0
        self.start()

    def start(self) -> None:
        """Start, or start again."""
        self._from = perf_counter()

    def stop(self) -> None:
        """Add the time since `start`."""
        self.add(perf_counter() - self._from)

    def add(self, seconds: float) -> None:
        """Add a time that was measured elsewhere."""
        self.last_s = seconds
        self.seconds += seconds

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass(slots=True)
class StatsRecorder:
    """Counts and times. The worker has something to do from `begin_work` to `end_work`."""

    llama: Stopwatch = field(default_factory=Stopwatch)
    sampling: Stopwatch = field(default_factory=Stopwatch)
    work_s: float = 0.0  # that has ended
    n_steps: int = 0
    n_prompt_tokens: int = 0
    n_generated_tokens: int = 0
    n_device_tokens: int = 0
    n_drafted_tokens: int = 0
    n_accepted_tokens: int = 0
    n_model_drafted_tokens: int = 0
    n_model_accepted_tokens: int = 0
    n_begun_prompt_tokens: int = 0
    n_begun_cached_tokens: int = 0
    n_drafts: int = 0
    n_step_tokens: int = 0
    n_step_sequences: int = 0
    steps_by_tokens: list[int] = field(default_factory=lambda: [0] * (len(STEP_TOKENS) + 1))
    _working_from: float | None = None

    def note_steps(self, n_steps: int, n_tokens: int, n_sequences: int) -> None:
        """Count steps that each computed `n_tokens` of `n_sequences`."""
        self.n_steps += n_steps
        self.n_step_tokens += n_steps * n_tokens
        self.n_step_sequences += n_steps * n_sequences
        self.steps_by_tokens[bisect_left(STEP_TOKENS, n_tokens)] += n_steps

    def begin_work(self) -> None:
        """The worker has something to do from now on."""
        self._working_from = perf_counter()

    def end_work(self) -> None:
        """The worker waits for requests from now on."""
        if self._working_from is not None:
            self.work_s += perf_counter() - self._working_from
            self._working_from = None

    @property
    def host_s(self) -> float:
        """The worker's time outside llama.cpp and sampling, messages included; 0 without a worker."""
        working_s = 0.0 if self._working_from is None else perf_counter() - self._working_from
        return max(self.work_s + working_s - self.llama.seconds - self.sampling.seconds, 0.0)

    def stats(
        self, scheduler: Scheduler, cache: PrefixCache, device_slots: DeviceSamplerSlots | None
    ) -> EngineStats:
        """These counts, and the current state."""
        return EngineStats(
            n_steps=self.n_steps,
            llama_s=self.llama.seconds,
            sampling_s=self.sampling.seconds,
            host_s=self.host_s,
            n_prompt_tokens=self.n_prompt_tokens,
            n_generated_tokens=self.n_generated_tokens,
            n_device_tokens=self.n_device_tokens,
            n_reserved=0 if device_slots is None else device_slots.n_reserved,
            reserve_s=0.0 if device_slots is None else device_slots.reserve_s,
            n_drafted_tokens=self.n_drafted_tokens,
            n_accepted_tokens=self.n_accepted_tokens,
            n_model_drafted_tokens=self.n_model_drafted_tokens,
            n_model_accepted_tokens=self.n_model_accepted_tokens,
            n_running=len(scheduler.running),
            n_waiting=len(scheduler.waiting),
            n_cells=cache.n_cells,
            n_cells_used=cache.n_used,
            n_cells_idle=cache.n_idle_cells,
            n_prefix_hits=cache.n_hits,
            n_prefix_tokens=cache.n_reused,
            n_preemptions=scheduler.n_preemptions,
            n_offloaded=cache.n_offloaded,
            host_bytes=cache.store.ram_used_bytes,
            disk_bytes=cache.store.disk_used_bytes,
            n_begun_prompt_tokens=self.n_begun_prompt_tokens,
            n_begun_cached_tokens=self.n_begun_cached_tokens,
            n_drafts=self.n_drafts,
            n_step_tokens=self.n_step_tokens,
            n_step_sequences=self.n_step_sequences,
            steps_by_tokens=tuple(self.steps_by_tokens),
        )
