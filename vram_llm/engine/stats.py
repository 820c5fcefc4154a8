"""The engine's own figures: what its steps cost, and what it holds."""

import msgspec


class Figures(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Counts and seconds since the load, and what there is now. A rate is the difference of two of these.

    Of a step's time, `llama_s` is spent in llama_decode, a draft model's too, and in waiting for the device,
    `sampling_s` in choosing tokens from logits, and `host_s` in everything else: scheduling, filling the
    batch, text, and the messages to and from the server. Waiting for requests counts as none of them. A
    msgspec structure: one is made and packed for every step.
    """

    n_steps: int = 0
    llama_s: float = 0.0
    sampling_s: float = 0.0
    host_s: float = 0.0
    host_cpu_s: float = 0.0  # of host_s: the rest is waiting, and others on the engine's core
    n_prompt_tokens: int = 0  # computed, not reused
    n_generated_tokens: int = 0
    n_device_tokens: int = 0  # of those generated: sampled on the device
    n_reserved: int = 0  # times that buffers were made again for samplers with other parameters
    reserve_s: float = 0.0  # of llama_s
    n_drafted_tokens: int = 0
    n_accepted_tokens: int = 0  # of those drafted
    n_guessed_tokens: int = 0  # of those drafted, by the draft model and not by prompt lookup
    n_right_tokens: int = 0  # of those guessed, accepted
    n_running: int = 0
    n_waiting: int = 0
    n_cells: int = 0
    n_cells_used: int = 0
    n_cells_idle: int = 0  # of those used: held for later requests, and given up when room is wanted
    n_prefix_hits: int = 0  # requests that began with cells computed before
    n_prefix_tokens: int = 0
    n_preemptions: int = 0
    n_moved_to_host: int = 0  # states
    host_bytes: int = 0  # of such states in RAM
    disk_bytes: int = 0
