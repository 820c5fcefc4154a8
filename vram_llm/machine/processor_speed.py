"""Estimate how fast llama.cpp computes on a processor, from its cores and its memory.

A core reads weights and multiplies with them one after the other; all cores together read no faster than a
share of the memory's bandwidth. For weights of b bytes each, on n cores:

    weights per second = min(n / (b / core read rate + 1 / multiplications), share * bandwidth / b)

with a share of 0.7, and 0.6 for more than four channels.

So a processor of few cores, or a type that is slow to unpack, does not reach the memory's bandwidth:

    i9-10900X, 10 cores, 4 channels (102 GB/s), RTX 2080     Q4_K_M layers 45 GB/s, MXFP4 experts 32
    Threadripper PRO, 24 cores, 8 channels (307)             Q8_0 experts 191
    EPYC 9355, 32 cores, 12 channels (576)                   Q6_K experts 254
    Xeon E5-2683 v4, 16 cores, 4 channels (77)               IQ4_XS 51
    M2 Max, 12 cores, 410 GB/s                               F16 118, Q8_0 112, Q4_0 104, Q4_K 77, Q6_K 72

(AlexsJones/llmfit pull requests 774 and 778; ikawrakow/ik_llama.cpp discussions 357 and 164, rows of
llama.cpp itself, 2024-12 to 2025-05; step times less the card's part.) From these come the rates of cores:
with DDR4, with DDR5 or Apple's, whose slow cores count as well.

Multiplications of a core, relative to Q4_K: ggml's vec_dot with weights in a core's cache, on a Zen 4 core
(22 billion per second for Q4_K). For Arm: prompts of an M2 Max. Prompts are faster than a row where ggml has
kernels that use a weight for several rows (ggml-cpu/tiled, llama-cpp-python 0.3.36): measured on the same
Zen 4 core with 64 rows. Attention: 8.5 billion multiplications per second of that core over an f16 cache.
"""

import re
from typing import NamedTuple

from vram_llm.machine.types import Fact, Host, Source, Speed, TypeSpeed

LAYER_OVERHEAD_S = 50e-6  # barriers between threads
STEP_OVERHEAD_S = 100e-6  # estimated, as a card's
SPLIT_S = 15e-6  # estimated: threads wake up

_MEMORY_SHARE = 0.7  # of the memory's bandwidth, that all cores together read at
_SERVER_SHARE = 0.6  # with more than four channels
_FEW_CHANNELS = 4
_ATTENTION_SHARE = 0.4  # of the multiplications of Q4_K: with an f16 cache


class _Core(NamedTuple):
    """Rates of one core."""

    read_bytes_per_s: float
    multiplications_per_s: float  # of Q4_K


class _Type(NamedTuple):
    """A type of ggml: its size, and rates of multiplication relative to Q4_K's of one row."""

    bytes_per_weight: float
    of_a_row: float
    of_a_row_on_arm: float
    of_a_prompt: float


_DDR4 = _Core(7.5e9, 15e9)  # and older, and where the kind of memory is unknown
_DDR5 = _Core(13e9, 24e9)  # and Apple's
_TYPES = {
    "F32": _Type(4, 0.4, 0.4, 1.0),
    "F16": _Type(2, 0.7, 0.7, 2.0),
    "BF16": _Type(2, 0.7, 0.7, 2.0),
    "Q8_0": _Type(34 / 32, 1.0, 1.3, 2.5),
    "Q4_0": _Type(18 / 32, 0.9, 2.5, 2.2),
    "Q4_1": _Type(20 / 32, 0.9, 0.9, 2.0),
    "Q5_0": _Type(22 / 32, 0.8, 0.8, 2.0),
    "Q5_1": _Type(24 / 32, 0.8, 0.8, 2.0),
    "Q2_K": _Type(84 / 256, 1.1, 1.0, 4.0),
    "Q3_K": _Type(110 / 256, 0.85, 0.7, 4.0),
    "Q4_K": _Type(144 / 256, 1.0, 1.0, 4.5),
    "Q5_K": _Type(176 / 256, 0.8, 0.8, 4.5),
    "Q6_K": _Type(210 / 256, 1.0, 0.65, 4.0),
    "IQ4_NL": _Type(18 / 32, 0.8, 0.8, 2.0),
    "IQ4_XS": _Type(136 / 256, 0.8, 0.8, 4.5),
    "IQ3_S": _Type(110 / 256, 0.35, 0.35, 3.5),
    "IQ3_XXS": _Type(98 / 256, 0.4, 0.4, 4.0),
    "IQ2_S": _Type(82 / 256, 0.5, 0.5, 3.5),
    "IQ2_XS": _Type(74 / 256, 0.5, 0.5, 3.5),
    "IQ2_XXS": _Type(66 / 256, 0.5, 0.5, 4.0),
    "IQ1_S": _Type(50 / 256, 0.5, 0.5, 3.5),
    "IQ1_M": _Type(56 / 256, 0.5, 0.5, 3.5),
    "MXFP4": _Type(17 / 32, 0.8, 0.8, 1.0),
}


def processor_speed(host: Host, memory_read: Fact) -> Speed:
    """A processor's speed; `memory_read` is the rate at which all its cores together can read.

    The speed has the source of `memory_read`.
    """
    cores, core = host.physical_cores or host.cores, _core(host)
    is_arm = "neon" in (host.instructions or ()) or "apple" in (host.cpu_name or "").lower()
    source = memory_read.source

    def fact(value: float) -> Fact:
        return Fact(value, source)

    def of_type(name: str, of: _Type) -> TypeSpeed:
        row = core.multiplications_per_s * (of.of_a_row_on_arm if is_arm else of.of_a_row)
        alone_s = of.bytes_per_weight / core.read_bytes_per_s + 1 / row
        prompt = row if is_arm else core.multiplications_per_s * of.of_a_prompt
        return TypeSpeed(
            type=name,
            read_bytes_per_s=fact(min(cores * of.bytes_per_weight / alone_s, memory_read.value)),
            row_flops_per_s=fact(2 * cores * row),
            prompt_flops_per_s=fact(2 * cores * prompt),
        )

    types = tuple(of_type(name, of) for name, of in _TYPES.items())
    usual = next(each for each in types if each.type == "Q4_K")
    return Speed(
        read_bytes_per_s=fact(min(cores * core.read_bytes_per_s, memory_read.value)),
        layer_overhead_s=fact(LAYER_OVERHEAD_S),
        step_overhead_s=fact(STEP_OVERHEAD_S),
        row_flops_per_s=usual.row_flops_per_s,
        prompt_flops_per_s=usual.prompt_flops_per_s,
        split_s=fact(SPLIT_S),
        attention_flops_per_s=fact(2 * cores * _ATTENTION_SHARE * core.multiplications_per_s),
        types=types,
        threads=cores,
    )


def estimated_speed(host: Host) -> Speed | None:
    """The host's speed from the bandwidth of its memory; None if that is unknown."""
    memory = host.bandwidth_bytes_per_s
    if memory is None:
        return None
    channels = re.search(r"(\d+)ch", host.memory_kind or "")
    share = _SERVER_SHARE if channels and int(channels[1]) > _FEW_CHANNELS else _MEMORY_SHARE
    source = Source.ASSUMED if memory.source is Source.ASSUMED else Source.ESTIMATED
    return processor_speed(host, Fact(share * memory.value, source))


def _core(host: Host) -> _Core:
    return _DDR5 if (host.memory_kind or "").startswith(("DDR5", "LPDDR5")) else _DDR4
