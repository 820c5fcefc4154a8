"""The work of an engine: the facts behind /status, /metrics and /slots."""

from collections.abc import Mapping
from dataclasses import dataclass

from vram_llm.engine.recent_load import RecentRates
from vram_llm.engine.request_metrics import RequestHistograms, RequestSnapshot
from vram_llm.engine.stats import EngineStats
from vram_llm.planner.types import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineActivity:
    """An engine as its client knows it now. `totals` count since the server's start, over all engines."""

    plan: Plan  # that the engine runs
    pid: int | None  # of its process; None: there is none
    n_restarts: int
    uptime_s: float | None  # since the load; None: nothing is loaded
    totals: EngineStats
    recent: RecentRates
    requests: tuple[RequestSnapshot, ...]  # in flight, by arrival
    histograms: RequestHistograms
    endings: Mapping[str, int]  # requests by vLLM's finished_reason
    longest: int  # most tokens of a sequence that has ended
    slots: tuple[int, ...] = ()  # tokens that each numbered slot holds while no request runs there

    @property
    def n_waiting(self) -> int:
        """Requests that wait for a slot, or for an engine."""
        return sum(request.state == "waiting" for request in self.requests)

    @property
    def n_running(self) -> int:
        """Requests that are computed."""
        return len(self.requests) - self.n_waiting

    @property
    def kv_usage(self) -> float:
        """The share of the KV cells that running sequences hold; cells kept for later requests are free."""
        totals = self.totals
        return (totals.n_cells_used - totals.n_cells_idle) / totals.n_cells if totals.n_cells else 0.0

    @property
    def prefix_hit_rate(self) -> float | None:
        """The share of the prompts' tokens that were not computed again; None: there were no prompts."""
        n_prompt = self.totals.n_begun_prompt_tokens
        return self.totals.n_begun_cached_tokens / n_prompt if n_prompt else None
