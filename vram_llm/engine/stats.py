"""The engine's statistics: cost of its steps, and its current state."""

import msgspec

STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Bounds of the buckets of `EngineStats.steps_by_tokens`: vLLM's, for vllm:iteration_tokens_total."""


class EngineStats(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Counts and seconds since the load, and the current state. A rate is the difference of two of these.

    A step's time has three parts: `llama_s` in llama_decode, the draft model's included, and in waiting for
    the device; `sampling_s` in sampling tokens from logits; `host_s` in everything else: scheduling, filling
    the batch, text, and the messages to and from the server. Waiting for requests is in none of them. A
    msgspec structure, because one is made and packed for every full step.
    """

    n_steps: int = 0
    llama_s: float = 0.0
    sampling_s: float = 0.0
    host_s: float = 0.0
    n_prompt_tokens: int = 0  # computed, not reused
    n_generated_tokens: int = 0
    n_device_tokens: int = 0  # generated tokens that the device sampled
    n_reserved: int = 0  # times that buffers were reserved again for other device samplers
    reserve_s: float = 0.0  # of llama_s
    n_drafted_tokens: int = 0
    n_accepted_tokens: int = 0  # of the drafted tokens
    n_model_drafted_tokens: int = 0  # drafted by the draft model; the others by prompt lookup
    n_model_accepted_tokens: int = 0  # of the draft model's tokens
    n_running: int = 0
    n_waiting: int = 0
    n_cells: int = 0
    n_cells_used: int = 0
    n_cells_idle: int = 0  # of the cells used, those kept for later requests and evicted when room is needed
    n_prefix_hits: int = 0  # requests that reused cells
    n_prefix_tokens: int = 0
    n_preemptions: int = 0
    n_offloaded: int = 0  # states moved to the host
    host_bytes: int = 0  # offloaded states in RAM
    disk_bytes: int = 0  # offloaded states on disk
    n_begun_prompt_tokens: int = 0  # of the prompts of all answers that have begun
    n_begun_cached_tokens: int = 0  # of those, reused
    n_drafts: int = 0  # drafts of any length
    n_step_tokens: int = 0  # of all steps together, drafts left out
    n_step_sequences: int = 0  # of all steps together: divided by n_steps, those of a step
    steps_by_tokens: tuple[int, ...] = (0,) * (len(STEP_TOKENS) + 1)  # by the tokens that they computed


_STATES = frozenset(
    {"n_running", "n_waiting", "n_cells", "n_cells_used", "n_cells_idle", "host_bytes", "disk_bytes"}
)


def with_earlier(stats: EngineStats, earlier: EngineStats) -> EngineStats:
    """`stats` with the counts and seconds of earlier engines added; the state is that of `stats`."""
    sums = {
        name: getattr(stats, name) + getattr(earlier, name)
        for name in EngineStats.__struct_fields__
        if name not in _STATES and name != "steps_by_tokens"
    }
    pairs = zip(stats.steps_by_tokens, earlier.steps_by_tokens, strict=True)
    return msgspec.structs.replace(stats, **sums, steps_by_tokens=tuple(a + b for a, b in pairs))
