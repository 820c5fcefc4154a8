"""Estimate the speed of llama.cpp on a processor, from its cores and its memory.

A core alternates between reading weights and multiplying with them. All cores together read at most a share
of the memory's bandwidth. For weights of b bytes each, on n cores:

    weights per second = min(n / (b / core read rate + 1 / multiplications), share * bandwidth / b)

with a share of 0.7, and 0.6 for more than four channels.

So a processor of few cores, or with a type that is slow to unpack, does not reach the memory's bandwidth:

    i9-10900X, 10 cores, 4 channels (102 GB/s), RTX 2080     Q4_K_M layers 45 GB/s, MXFP4 experts 32
    Threadripper PRO, 24 cores, 8 channels (307)             Q8_0 experts 191
    EPYC 9355, 32 cores, 12 channels (576)                   Q6_K experts 254
    Xeon E5-2683 v4, 16 cores, 4 channels (77)               IQ4_XS 51
    M2 Max, 12 cores, 410 GB/s                               F16 118, Q8_0 112, Q4_0 104, Q4_K 77, Q6_K 72

(AlexsJones/llmfit pull requests 774 and 778; ikawrakow/ik_llama.cpp discussions 357 and 164, rows of
llama.cpp itself, 2024-12 to 2025-05; step times without the card's part.) The rates of cores were fitted to
these: one for DDR4, one for DDR5 and for Apple's cores, of which the slow ones count as well.

Multiplications of a core, relative to Q4_K: ggml's vec_dot with weights in the core's cache, on a Zen 4 core
(22 billion per second for Q4_K). For Arm: prompts of an M2 Max. Prompts are faster than single rows if ggml
has kernels that use a weight for several rows (ggml-cpu/tiled, llama-cpp-python 0.3.36): measured on the same
Zen 4 core with 64 rows. Attention: that core does 8.5 billion multiplications per second with an f16 cache.
"""

import re
from typing import NamedTuple

from vram_llm.machine.types import Fact, Host, Source, Speed, TypeSpeed

LAYER_OVERHEAD_S = 50e-6  # barriers between threads
STEP_OVERHEAD_S = 100e-6  # estimated, as a card's
SPLIT_S = 15e-6  # estimated: threads wake up

_MEMORY_SHARE = 0.7  # of the memory's bandwidth: the read rate of all cores together
_SERVER_SHARE = 0.6  # with more channels than a workstation's
_WORKSTATION_CHANNELS = 4
_ATTENTION_SHARE = 0.4  # of the rate of Q4_K, for attention with an f16 cache


class _CoreRates(NamedTuple):
    """The rates of one core."""

    read_bytes_per_s: float
    multiplications_per_s: float  # with weights of Q4_K and one row


class _TypeRates(NamedTuple):
    """The size of a ggml type, and its rates of multiplication, relative to Q4_K with one row."""

    bytes_per_weight: float
    row: float
    row_on_arm: float
    prompt: float


_DDR4 = _CoreRates(7.5e9, 15e9)  # also for older and for unknown memory
_DDR5 = _CoreRates(13e9, 24e9)  # also for Apple's LPDDR5
_TYPES = {
    "F32": _TypeRates(4, 0.4, 0.4, 1.0),
    "F16": _TypeRates(2, 0.7, 0.7, 2.0),
    "BF16": _TypeRates(2, 0.7, 0.7, 2.0),
    "Q8_0": _TypeRates(34 / 32, 1.0, 1.3, 2.5),
    "Q4_0": _TypeRates(18 / 32, 0.9, 2.5, 2.2),
    "Q4_1": _TypeRates(20 / 32, 0.9, 0.9, 2.0),
    "Q5_0": _TypeRates(22 / 32, 0.8, 0.8, 2.0),
    "Q5_1": _TypeRates(24 / 32, 0.8, 0.8, 2.0),
    "Q2_K": _TypeRates(84 / 256, 1.1, 1.0, 4.0),
    "Q3_K": _TypeRates(110 / 256, 0.85, 0.7, 4.0),
    "Q4_K": _TypeRates(144 / 256, 1.0, 1.0, 4.5),
    "Q5_K": _TypeRates(176 / 256, 0.8, 0.8, 4.5),
    "Q6_K": _TypeRates(210 / 256, 1.0, 0.65, 4.0),
    "IQ4_NL": _TypeRates(18 / 32, 0.8, 0.8, 2.0),
    "IQ4_XS": _TypeRates(136 / 256, 0.8, 0.8, 4.5),
    "IQ3_S": _TypeRates(110 / 256, 0.35, 0.35, 3.5),
    "IQ3_XXS": _TypeRates(98 / 256, 0.4, 0.4, 4.0),
    "IQ2_S": _TypeRates(82 / 256, 0.5, 0.5, 3.5),
    "IQ2_XS": _TypeRates(74 / 256, 0.5, 0.5, 3.5),
    "IQ2_XXS": _TypeRates(66 / 256, 0.5, 0.5, 4.0),
    "IQ1_S": _TypeRates(50 / 256, 0.5, 0.5, 3.5),
    "IQ1_M": _TypeRates(56 / 256, 0.5, 0.5, 3.5),
    "MXFP4": _TypeRates(17 / 32, 0.8, 0.8, 1.0),
}


def processor_speed(host: Host, memory_read: Fact) -> Speed:
    """A processor's speed. `memory_read` is the most bytes per second that all its cores together read.

    All figures have the source of `memory_read`.
    """
    n_cores, core = host.physical_cores or host.cores, _core_rates(host)
    is_arm = "neon" in (host.instructions or ()) or "apple" in (host.cpu_name or "").lower()
    source = memory_read.source

    def fact(value: float) -> Fact:
        return Fact(value, source)

    def type_speed(name: str, rates: _TypeRates) -> TypeSpeed:
        row_per_s = core.multiplications_per_s * (rates.row_on_arm if is_arm else rates.row)
        prompt_per_s = row_per_s if is_arm else core.multiplications_per_s * rates.prompt
        weight_s = rates.bytes_per_weight / core.read_bytes_per_s + 1 / row_per_s
        return TypeSpeed(
            type=name,
            read_bytes_per_s=fact(min(n_cores * rates.bytes_per_weight / weight_s, memory_read.value)),
            row_flops_per_s=fact(2 * n_cores * row_per_s),
            prompt_flops_per_s=fact(2 * n_cores * prompt_per_s),
        )

    types = {name: type_speed(name, rates) for name, rates in _TYPES.items()}
    return Speed(
        read_bytes_per_s=fact(min(n_cores * core.read_bytes_per_s, memory_read.value)),
        layer_overhead_s=fact(LAYER_OVERHEAD_S),
        step_overhead_s=fact(STEP_OVERHEAD_S),
        row_flops_per_s=types["Q4_K"].row_flops_per_s,
        prompt_flops_per_s=types["Q4_K"].prompt_flops_per_s,
        split_s=fact(SPLIT_S),
        attention_flops_per_s=fact(2 * n_cores * _ATTENTION_SHARE * core.multiplications_per_s),
        types=tuple(types.values()),
        threads=n_cores,
    )


def estimated_speed(host: Host) -> Speed | None:
    """The host's speed from the bandwidth of its memory; None if that is unknown."""
    memory = host.bandwidth_bytes_per_s
    if memory is None:
        return None
    channels = re.search(r"(\d+)ch", host.memory_kind or "")
    share = _SERVER_SHARE if channels and int(channels[1]) > _WORKSTATION_CHANNELS else _MEMORY_SHARE
    source = Source.ASSUMED if memory.source is Source.ASSUMED else Source.ESTIMATED
    return processor_speed(host, Fact(share * memory.value, source))


def _core_rates(host: Host) -> _CoreRates:
    return _DDR5 if (host.memory_kind or "").startswith(("DDR5", "LPDDR5")) else _DDR4
