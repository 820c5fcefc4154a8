"""llama-server's metrics, under its names (tools/server/server-task.cpp, to_metrics)."""

from vram_llm.engine.activity import EngineActivity
from vram_llm.server.metrics.families import Families, FamilySink


def add_llama_server_families(sink: FamilySink, activity: EngineActivity) -> None:
    """Add the families. Seconds are sums over requests that have ended, averages those since the start."""
    families = Families(sink, "llamacpp:", {})
    totals, times = activity.totals, activity.histograms
    prompt_s, predicted_s = times.prefill_s.total, times.decode_s.total
    for name, text, value in (
        ("prompt_tokens", "Prompt tokens processed, without cached ones.", totals.n_prompt_tokens),
        ("prompt_tokens_cached", "Prompt tokens reused from the cache.", totals.n_begun_cached_tokens),
        ("prompt_seconds", "Time of prompts.", prompt_s),
        ("tokens_predicted", "Generated tokens.", totals.n_generated_tokens),
        ("tokens_predicted_seconds", "Time of answers.", predicted_s),
        ("n_decode", "Calls of llama_decode.", totals.n_steps),
        ("spec_decode_num_draft_tokens", "Tokens of drafts.", totals.n_drafted_tokens),
        ("spec_decode_num_accepted_tokens", "Tokens of drafts that were accepted.", totals.n_accepted_tokens),
        ("spec_decode_num_drafts", "Drafts.", totals.n_drafts),
    ):
        families.counter(name, text, value)
    longest = max([activity.longest, *(request.n_tokens for request in activity.requests)])
    for name, text, value in (
        ("n_tokens_max", "Most tokens of a sequence.", longest),
        ("prompt_tokens_seconds", "Prompt tokens a second.", _per(times.prompt_tokens.total, prompt_s)),
        ("predicted_tokens_seconds", "Generated tokens a second of a request.", _predicted(activity)),
        ("requests_processing", "Requests that are computed.", activity.n_running),
        ("requests_deferred", "Requests that wait.", activity.n_waiting),
        ("n_busy_slots_per_decode", "Sequences of a step.", _per(totals.n_step_sequences, totals.n_steps)),
    ):
        families.gauge(name, text, value)


def _predicted(activity: EngineActivity) -> float:
    times = activity.histograms
    return _per(times.generation_tokens.total - times.generation_tokens.count, times.decode_s.total)


def _per(amount: float, of: float) -> float:
    return amount / of if of else 0.0
