"""vLLM's metrics, under its names and meanings (v1/metrics/loggers.py), so that its dashboards work.

A prompt's tokens include those that were cached. A finished request is an answer, one for each choice.
"""

from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.adapters import scaled
from vram_llm.engine.bucket_counts import BucketCounts
from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request_metrics import ABORT
from vram_llm.engine.stats import STEP_TOKENS
from vram_llm.server.metrics.families import Families, FamilySink

PREFIX = "vllm:"
ENGINE = "0"  # vLLM numbers its engines
_REASONS = ("stop", "length", ABORT, "error")


def add_vllm_families(
    sink: FamilySink, activity: EngineActivity, model_name: str, info: ModelInfo | None
) -> None:
    """Add the families; `info` is of the loaded model."""
    families = Families(sink, PREFIX, {"model_name": model_name, "engine": ENGINE})
    _add_state(families, activity)
    _add_counters(families, activity)
    _add_times(families, activity)
    _add_sizes(families, activity)
    _add_infos(sink, activity, info)


def _add_state(families: Families, activity: EngineActivity) -> None:
    families.gauge("num_requests_running", "Requests that are computed.", activity.n_running)
    families.gauge("num_requests_waiting", "Requests that wait to be computed.", activity.n_waiting)
    families.gauge(
        "kv_cache_usage_perc", "Share of the KV cells that running requests hold, 0 to 1.", activity.kv_usage
    )


def _add_counters(families: Families, activity: EngineActivity) -> None:
    totals = activity.totals
    for name, text, value in (
        ("prefix_cache_queries", "Prompt tokens looked up.", totals.n_begun_prompt_tokens),
        ("prefix_cache_hits", "Prompt tokens found in the cache.", totals.n_begun_cached_tokens),
        ("num_preemptions", "Times that a request was preempted.", totals.n_preemptions),
        ("prompt_tokens", "Prompt tokens, cached ones included.", totals.n_begun_prompt_tokens),
        ("generation_tokens", "Generated tokens.", totals.n_generated_tokens),
        ("spec_decode_num_drafts", "Drafts.", totals.n_drafts),
        ("spec_decode_num_draft_tokens", "Tokens of drafts.", totals.n_drafted_tokens),
        ("spec_decode_num_accepted_tokens", "Tokens of drafts that were accepted.", totals.n_accepted_tokens),
    ):
        families.counter(name, text, value)
    endings = activity.endings
    samples = [((reason,), endings.get(reason, 0)) for reason in _REASONS]
    families.counters("request_success", "Requests that have ended.", ("finished_reason",), samples)


def _add_times(families: Families, activity: EngineActivity) -> None:
    found = activity.histograms
    for name, text, observed in (
        (
            "time_to_first_token_seconds",
            "From arrival to the first token.",
            "time_to_first_token_s",
        ),
        ("inter_token_latency_seconds", "Between a request's tokens.", "inter_token_latency_s"),
        ("request_time_per_output_token_seconds", "A request's mean of it.", "time_per_output_token_s"),
        ("e2e_request_latency_seconds", "From arrival to end.", "end_to_end_s"),
        ("request_queue_time_seconds", "In the queue.", "queue_s"),
        ("request_prefill_time_seconds", "From the queue to the first token.", "prefill_s"),
        ("request_decode_time_seconds", "From the first token to the last.", "decode_s"),
        ("request_inference_time_seconds", "From the queue to the last token.", "inference_s"),
    ):
        families.histogram(name, text, getattr(found, observed))


def _add_sizes(families: Families, activity: EngineActivity) -> None:
    found = activity.histograms
    families.histogram("request_prompt_tokens", "Tokens of prompts.", found.prompt_tokens)
    families.histogram("request_generation_tokens", "Tokens of answers.", found.generation_tokens)
    families.histogram("request_params_n", "Choices that requests ask for.", found.choices)
    families.histogram("request_params_max_tokens", "Most tokens that requests ask for.", found.max_tokens)
    steps = BucketCounts(STEP_TOKENS)
    steps.counts, steps.total = list(activity.totals.steps_by_tokens), float(activity.totals.n_step_tokens)
    families.histogram("iteration_tokens_total", "Tokens of an engine step.", steps)


def _add_infos(sink: FamilySink, activity: EngineActivity, info: ModelInfo | None) -> None:
    """Facts as labels of gauges that are 1."""
    context, serving = activity.plan.context, activity.plan.serving
    of_cache = Families(
        sink,
        PREFIX,
        {
            "engine": ENGINE,
            "block_size": "1",
            "cache_dtype": f"{context.kv_type_k}/{context.kv_type_v}",
            "num_gpu_blocks": str(activity.totals.n_cells or context.n_ctx),
            "enable_prefix_caching": str(serving.cache_reuse > 0),
        },
    )
    of_cache.gauge("cache_config_info", "The KV cache.", 1)
    if info is None or not info.adapters:
        return
    running = _adapters(activity, info, waiting=False)
    waiting = _adapters(activity, info, waiting=True)
    names = {"running_lora_adapters": running, "waiting_lora_adapters": waiting}
    of_adapters = Families(sink, PREFIX, {"max_lora": str(len(info.adapters)), **names})
    of_adapters.gauge("lora_requests_info", "Adapters of the requests in flight.", 1)


def _adapters(activity: EngineActivity, info: ModelInfo, *, waiting: bool) -> str:
    """The names of adapters of requests in flight, with commas."""
    planned = scaled(lora.scale for lora in info.adapter_files)
    numbers = {
        number
        for request in activity.requests
        if (request.state == "waiting") is waiting
        for number, _ in (planned if request.adapters is None else request.adapters)
    }
    return ",".join(info.adapters[number] for number in sorted(numbers))
