"""The engine's statistics: cost of its steps, and its current state."""

import msgspec


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
    host_cpu_s: float = 0.0  # of host_s, on a processor; the rest is waiting for one
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
