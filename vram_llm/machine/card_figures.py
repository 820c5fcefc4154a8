"""Figures of llama.cpp's kernels on cards, by the card's generation.

They are fitted to published measurements of builds of 2025-26 (docs/predictions.md), by least squares of the
logarithms with few rows for one card and model; the comment of each figure names its rows. AMD's cards have
figures for ROCm and for Vulkan. A card that is only described may be driven by either: unless its description
names one, it has Vulkan's, which are nearer to the rows of both (docs/predictions.md). Generations without
rows have the figures of a neighbour.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from vram_llm.machine.card_generation import ChipGeneration, generation_of
from vram_llm.machine.types import Device, DeviceKind

_WIDEST_HEAD = 256  # latent attention has wider ones


class Part(StrEnum):
    """A part of a layer, with kernels of its own."""

    ATTENTION = "attention"
    LATENT_ATTENTION = "latent attention"
    DELTA_NET = "delta net"
    STATE_SPACE = "state space"
    DENSE = "dense network"
    EXPERTS = "experts"
    POST_NORMS = "norms after attention and network"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFigures:
    """The figures of one generation; the formulas are those of planner/speed.py."""

    read_share: float  # of the bandwidth, for weights in a decode step
    layer_overhead_s: float  # launches of a dense layer with attention
    flops_per_byte: float | None  # of a prompt, for each byte per second of bandwidth; None: unknown
    launches: Mapping[Part, float]  # time of a part's launches, in layer_overhead_s
    cache_share: float  # of the read rate of weights, for K and V
    cache_token_s: float = 0.0  # least time of a layer's attention in a decode step, a token of context
    plain_cache_share: float  # as cache_share, without flash attention
    plain_token_s: float = 0.0  # as cache_token_s, without flash attention
    plain_rereads: bool = False  # whether every query head then reads K and V, also if it shares them
    score_passes: float  # reads and writes of all scores by a prompt without flash attention
    row_share: float  # of the FLOP/s of prompts, for the 2nd to the 8th row of a decode step
    more_rows_share: float  # the same, for further rows, which kernels of prompts compute
    expert_rows_share: float  # of the read rate, for experts of several rows: another kernel
    expert_rows_s: float  # a layer more, for the same kernel
    latent_rows_s: float  # a layer more, for latent attention of several rows
    expert_prompt_share: float  # of the FLOP/s of prompts, for experts with many rows each
    expert_half_rows: float  # rows of an expert with half of that
    half_rows: float  # rows of a micro-batch with half of the FLOP/s of prompts
    attention_share: float  # of the FLOP/s of prompts, for attention with heads of 128, 8 to each of K and V
    softmax_size: float  # elements of a head that take as long as a score's softmax
    wide_share: float  # of that, for heads above 256: without a kernel for tensor cores
    sharing_power: float  # attention's rate is proportional to (query heads of each of K and V)^this, up to 8
    skips_masked: bool  # whether attention of a prompt skips cells that lie before a window
    state_reuse: float  # rate at which a prompt's states are read and written, over that of weights
    read_types: Mapping[str, float] = field(default_factory=dict)  # of the read rate, for weights of a type
    prompt_types: Mapping[str, float] = field(default_factory=dict)  # the same, of the FLOP/s of prompts

    def attention_rate(self, head_size: int, heads_per_kv: int) -> float:
        """Attention's share of the FLOP/s of prompts, for heads of one size."""
        sizes = min(max(head_size, 1), _WIDEST_HEAD), 128
        of_size, of_128 = (size / (size + self.softmax_size) for size in sizes)
        shared = math.pow(min(heads_per_kv, 8) / 8, self.sharing_power)
        wide = self.wide_share if head_size > _WIDEST_HEAD else 1.0
        return self.attention_share * of_size / of_128 * shared * wide


def _launches(latent: float, delta: float, space: float, experts: float, post: float) -> Mapping[Part, float]:
    return {
        Part.ATTENTION: 0.6,
        Part.DENSE: 0.4,
        Part.LATENT_ATTENTION: latent,
        Part.DELTA_NET: delta,
        Part.STATE_SPACE: space,
        Part.EXPERTS: experts,
        Part.POST_NORMS: post,
    }


# NVIDIA: 51 rows of one stream on 17 kinds of cards, builds of 2025-26; ROCm: 26 rows on 9 kinds, without
# Qwen3-Next of December 2025, whose kernels came later; Vulkan: 30 rows on 5 kinds; Apple: one row each of a
# delta net and of experts.
_NVIDIA = _launches(latent=1.5, delta=0.9, space=0.6, experts=0.9, post=0.8)
_ROCM = _launches(latent=1.5, delta=2.5, space=1.5, experts=0.9, post=0.75)
_VULKAN = _launches(latent=1.5, delta=2.0, space=1.7, experts=0.9, post=0.9)
_APPLE = _launches(latent=1.5, delta=1.5, space=1.0, experts=0.9, post=0.8)


# BF16: Qwen3.6 35B on a Radeon 8060S, three depths of either back end; its Vulkan driver lacks bf16 products
_ROCM_PROMPTS = {"BF16": 0.36}
_VULKAN_READS = {"BF16": 0.34}
_K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


# types with a codebook: 27B as UD-IQ2_XXS on an RTX 3080, 45.9 tok/s, and as UD-IQ3_XXS by tensors on an RTX
# 3080 Ti with a 3060 Ti, 39.4 (sudoingX/qwen38-mtp, 2026-08); other types need no figure of their own
_NVIDIA_READS = dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), 0.72)


def _nvidia(
    read: float, layer_us: float, flops: float | None, *, wide: float = 1.0, plain_ns: float = 17.0
) -> CardFigures:
    """`wide`: wide_share; `plain_ns`: plain_token_s."""
    return CardFigures(
        read_share=read, layer_overhead_s=layer_us * 1e-6, flops_per_byte=flops, launches=_NVIDIA,
        # depths of 16k and 32k on a GB10 (gpt-oss-20b, 30B-A3B, 7B) and an RTX 5080
        cache_share=0.8, attention_share=1.1, softmax_size=96.0, wide_share=wide, sharing_power=0.0,
        # 4096 against 512 tokens of Llama 3 8B on RTX 3070 to 4090, A6000 and L40S, 2024: 5.3 to 6.2 passes.
        # The same, generated, of 8B and 70B on 21 rigs: 20 ns on Ampere, 14 on Ada, whatever the bandwidth
        plain_cache_share=0.8, plain_token_s=plain_ns * 1e-9, score_passes=5.7,
        # n = 2 to 32 on a GB10 (gpt-oss-20b, 30B-A3B, 7B), a Tesla P40 and an RTX 3090 (DeepSeek V2 Lite)
        row_share=0.4, more_rows_share=0.95,
        expert_rows_share=0.65, expert_rows_s=85e-6, latent_rows_s=130e-6,
        # pp of gpt-oss, Qwen3 MoE, DeepSeek V2 Lite; micro-batches of 16 to 4096 on P40, RTX 3090, RTX 4090
        expert_prompt_share=0.53, expert_half_rows=21.0, half_rows=6.0, state_reuse=4.0,
        read_types=_NVIDIA_READS,
        skips_masked=False,  # flash_attn_mask_to_KV_max (fattn-common.cuh) finds the last cell alone
    )  # fmt: skip


def _rocm(read: float, layer_us: float, flops: float, attention: float) -> CardFigures:
    return CardFigures(
        read_share=read, layer_overhead_s=layer_us * 1e-6, flops_per_byte=flops, launches=_ROCM,
        # depths of 16k to 64k on Radeon 8060S and R9700, with 1, 2 and 8 query heads for each of K and V
        cache_share=0.6, attention_share=attention, softmax_size=0.0, wide_share=1.0, sharing_power=0.45,
        plain_cache_share=0.6, plain_token_s=17e-9, score_passes=5.7,  # as NVIDIA's
        row_share=0.4, more_rows_share=0.4, expert_rows_share=0.65, expert_rows_s=85e-6, latent_rows_s=130e-6,
        # pp of gpt-oss, Qwen3 MoE; hybrids (Qwen3.6 35B, Nemotron 3 Nano)
        expert_prompt_share=0.6, expert_half_rows=15.0, half_rows=0.0, skips_masked=False, state_reuse=1.35,
        prompt_types=_ROCM_PROMPTS,
    )  # fmt: skip


def _vulkan(
    read: float, layer_us: float, flops: float, attention: float = 0.24, *, k_types: float = 0.9
) -> CardFigures:
    """`k_types`: of the rate of prompts, with K quantisations, whose unpacking costs more.

    0.9: Q4_K_S against Q4_0 on a Radeon 8060S (llama.cpp pull request 18749, 2026-01), Q4_K_M of a 27B on an
    RX 7900 XTX (25051, 2026-06).
    """
    return replace(
        _rocm(read, layer_us, flops, attention), launches=_VULKAN,
        # depths of 16k to 64k on Radeon 8060S and R9700, with heads of 64 to 256
        cache_share=0.75, softmax_size=96.0, sharing_power=0.0, expert_prompt_share=0.58, skips_masked=True,
        read_types=_VULKAN_READS, prompt_types={"BF16": 0.2, **dict.fromkeys(_K_TYPES, k_types)},
    )  # fmt: skip


def _apple(read: float, layer_us: float, flops: float) -> CardFigures:
    return CardFigures(
        read_share=read, layer_overhead_s=layer_us * 1e-6, flops_per_byte=flops, launches=_APPLE,
        cache_share=0.9, attention_share=1.0, softmax_size=0.0, wide_share=1.0, sharing_power=0.0,
        # 4096 against 512 tokens of Llama 3 8B and 70B on an M2 Ultra, 2024: 4 and 8 query heads for each K
        plain_cache_share=0.6, plain_rereads=True, score_passes=1.0,
        row_share=0.4, more_rows_share=0.4, expert_rows_share=1.0, expert_rows_s=0.0, latent_rows_s=0.0,
        expert_prompt_share=0.8, expert_half_rows=10.0,  # one row: Qwen3.6 35B on an M4 Pro
        half_rows=0.0, skips_masked=True, state_reuse=4.0,
    )  # fmt: skip


_FIGURES = {
    ChipGeneration.PASCAL: _nvidia(0.87, 60, 38),  # Tesla P40
    ChipGeneration.PASCAL_HBM: _nvidia(
        0.27, 80, 25
    ),  # P100 with an RTX 3060: 27B Q4_K_M by layers, by tensors
    ChipGeneration.VOLTA: _nvidia(0.78, 95, 40, wide=0.3),  # V100: 7B, 27B, DeepSeek V2 Lite (pp at 32k)
    ChipGeneration.TURING: _nvidia(0.9, 80, 56),  # Quadro RTX 6000 and 8000, RTX 2080
    # A30; A100 of 2024 without CUDA graphs (90 us)
    ChipGeneration.AMPERE_HBM: _nvidia(0.56, 45, 49, plain_ns=15),
    ChipGeneration.AMPERE: _nvidia(0.9, 56, 75, plain_ns=20),  # RTX 3060 to 3090 Ti, A5000, A6000
    ChipGeneration.ADA: _nvidia(0.9, 40, 140, plain_ns=14),  # RTX 4070 Ti to 4090, L40
    # H200 of docs/measurements.md; H100 of 2024 (90 us)
    ChipGeneration.HOPPER: _nvidia(0.56, 40, 62, plain_ns=10),
    ChipGeneration.BLACKWELL_HBM: _nvidia(0.56, 40, 62),  # none: as Hopper
    ChipGeneration.BLACKWELL: _nvidia(0.89, 38, 115),  # RTX 5060 Ti to 5090, RTX PRO 4000 and 6000
    ChipGeneration.GB10: _nvidia(0.85, 32, 130),  # GB10: gpt-oss, 30B-A3B, 7B at depths up to 32k
    ChipGeneration.VEGA: _rocm(0.58, 110, 14.5, 0.24),  # MI50
    ChipGeneration.CDNA: _rocm(0.58, 110, 32, 0.24),  # MI100
    ChipGeneration.CDNA3: _rocm(0.58, 110, 40, 0.24),  # none: as CDNA, with its operations guessed
    ChipGeneration.RDNA2: _rocm(0.75, 85, 48, 0.24),  # W6800
    ChipGeneration.RDNA3: _rocm(0.93, 79, 50, 0.24),  # RX 7900 XTX, W7800
    ChipGeneration.RDNA3_5: _rocm(0.87, 68, 82, 0.42),  # Radeon 8060S
    ChipGeneration.RDNA4: _rocm(0.92, 84, 95, 0.17),  # RX 9070, 9070 XT, R9700
    ChipGeneration.ARC: _vulkan(0.8, 100, 18),  # none: B580 by a published ratio
    ChipGeneration.APPLE: _apple(0.86, 120, 21),  # M1 to M4, Pro and Max
    ChipGeneration.APPLE_ULTRA: _apple(0.72, 120, 21),  # M1 to M3 Ultra
}
_ON_VULKAN = {
    ChipGeneration.RDNA2: _vulkan(0.92, 75, 46),  # RX 6800 XT
    ChipGeneration.RDNA3: _vulkan(0.93, 60, 48),  # RX 7600, 7900 XTX
    ChipGeneration.RDNA3_5: _vulkan(0.92, 68, 78),  # Radeon 8060S
    # R9700, December 2025, and one row of June 2026. Prompts: 50 in December, more since llama.cpp's pull
    # request 18749 of January. 9 ns: 30B-A3B, gpt-oss-120b and Nemotron 3 Nano at 16k and 32k (8 to 12), and
    # Qwen3.6 35B on an RX 9070 XT in June 2026 (12; llama.cpp issue 24483)
    ChipGeneration.RDNA4: replace(_vulkan(0.94, 95, 58, 0.26, k_types=0.58), cache_token_s=9e-9),
}
_UNKNOWN = {
    DeviceKind.CUDA: _nvidia(0.9, 60, None),
    DeviceKind.ROCM: _rocm(0.85, 90, 40, 0.2),
    DeviceKind.VULKAN: _vulkan(0.8, 90, 40),
    DeviceKind.SYCL: _vulkan(0.8, 100, 40),
    DeviceKind.METAL: _apple(0.86, 120, 21),
}
PLAIN = CardFigures(
    read_share=1.0, layer_overhead_s=0.0, flops_per_byte=None, launches=_NVIDIA,
    cache_share=1.0, plain_cache_share=1.0, score_passes=0.0,
    row_share=0.25, more_rows_share=0.25, expert_rows_share=1.0, expert_rows_s=0.0, latent_rows_s=0.0,
    expert_prompt_share=1.0, expert_half_rows=0.0, half_rows=0.0,
    attention_share=1.0, softmax_size=0.0, wide_share=1.0, sharing_power=0.0,
    skips_masked=True, state_reuse=1.0,
)  # fmt: skip
"""For processors and RPC workers: kernels as they are measured."""


def figures_of(device: Device) -> CardFigures:
    """The figures of a device's generation, else of its back end; PLAIN for an RPC worker."""
    if device.kind is DeviceKind.RPC:
        return PLAIN
    generation = generation_of(device)
    if generation is None:
        return _UNKNOWN[device.kind]
    if backend_of_speed(device) is DeviceKind.VULKAN:
        return _ON_VULKAN.get(generation, _FIGURES[generation])
    return _FIGURES[generation]


def backend_of_speed(device: Device) -> DeviceKind:
    """The back end whose speed a device has: its own; Vulkan for a described card of AMD that names none.

    That is so for the generations with figures for Vulkan.
    """
    is_either = device.other_kind is DeviceKind.VULKAN and generation_of(device) in _ON_VULKAN
    return DeviceKind.VULKAN if is_either else device.kind
