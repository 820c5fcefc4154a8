"""Adds up the engine's figures as it works."""

from dataclasses import dataclass

from vram_llm.engine.cache import PrefixCache
from vram_llm.engine.figures import Figures
from vram_llm.engine.scheduler import Scheduler
from vram_llm.engine.seats import Seats


@dataclass(slots=True)
class Meter:
    """Adds up what steps cost."""

    n_steps: int = 0
    llama_s: float = 0.0
    sampling_s: float = 0.0
    host_s: float = 0.0
    n_prompt_tokens: int = 0
    n_generated_tokens: int = 0
    n_device_tokens: int = 0
    n_drafted_tokens: int = 0
    n_accepted_tokens: int = 0
    n_guessed_tokens: int = 0
    n_right_tokens: int = 0

    _total_s: float = 0.0

    def count_turn(self, seconds: float) -> None:
        """A turn of the engine, messages and all, took `seconds`; what is not counted yet was the host's."""
        self._total_s += seconds
        self.host_s = self._total_s - self.llama_s - self.sampling_s

    def figures(self, scheduler: Scheduler, cache: PrefixCache, seats: Seats | None) -> Figures:
        """These counts, and what there is now."""
        return Figures(
            n_steps=self.n_steps,
            llama_s=self.llama_s,
            sampling_s=self.sampling_s,
            host_s=self.host_s,
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
