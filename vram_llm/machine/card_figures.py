"""Figures of llama.cpp's kernels on cards, by the card's generation.

They are fitted to published measurements of builds of 2025-26 (docs/predictions.md), by least squares of the
logarithms with few rows for one card and model; the comment of each figure names its rows. AMD's are those of
ROCm and Vulkan together: a card that is only described may be driven by either. Generations without rows have
the figures of a neighbour.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from vram_llm.machine.card_generation import ChipGeneration, generation_of
from vram_llm.machine.types import Device, DeviceKind


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
    row_share: float  # of the FLOP/s of prompts, for the 2nd to the 8th row of a decode step
    more_rows_share: float  # the same, for further rows, which kernels of prompts compute
    expert_rows_share: float  # of the read rate, for experts of several rows: another kernel
    expert_rows_s: float  # a layer more, for the same kernel
    latent_rows_s: float  # a layer more, for latent attention of several rows
    expert_prompt_share: float  # of the FLOP/s of prompts, for experts with many rows each
    expert_half_rows: float  # rows of an expert with half of that
    half_rows: float  # rows of a micro-batch with half of the FLOP/s of prompts
    attention_share: float  # of the FLOP/s of prompts, for attention
    state_reuse: float  # rate at which a prompt's states are read and written, over that of weights
    prompt_types: Mapping[str, float] = field(default_factory=dict)  # of the FLOP/s, for weights of a type


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


# NVIDIA: 51 rows of one stream on 17 kinds of cards, builds of 2025-26; AMD: 59 rows on 11 kinds, ROCm and
# Vulkan; Apple: one row each of a delta net and of experts.
_NVIDIA = _launches(latent=1.5, delta=0.9, space=0.6, experts=0.9, post=0.8)
_AMD = _launches(latent=1.5, delta=2.1, space=1.5, experts=0.9, post=0.8)
_APPLE = _launches(latent=1.5, delta=1.5, space=1.0, experts=0.9, post=0.8)


def _nvidia(read: float, layer_us: float, flops: float | None) -> CardFigures:
    return CardFigures(
        read_share=read, layer_overhead_s=layer_us * 1e-6, flops_per_byte=flops, launches=_NVIDIA,
        cache_share=0.8, attention_share=0.9,
        # n = 2 to 32 on a GB10 (gpt-oss-20b, 30B-A3B, 7B), a Tesla P40 and an RTX 3090 (DeepSeek V2 Lite)
        row_share=0.4, more_rows_share=0.95,
        expert_rows_share=0.65, expert_rows_s=85e-6, latent_rows_s=130e-6,
        # pp of gpt-oss, Qwen3 MoE, DeepSeek V2 Lite; micro-batches of 16 to 4096 on P40, RTX 3090, RTX 4090
        expert_prompt_share=0.53, expert_half_rows=21.0, half_rows=6.0, state_reuse=4.0,
    )  # fmt: skip


def _amd(read: float, layer_us: float, flops: float) -> CardFigures:
    return CardFigures(
        read_share=read, layer_overhead_s=layer_us * 1e-6, flops_per_byte=flops, launches=_AMD,
        # depths of 16k to 64k on Radeon 8060S and R9700, ROCm and Vulkan: 0.4 to 0.8 and 0.15 to 0.7
        cache_share=0.63, attention_share=0.24,
        row_share=0.4, more_rows_share=0.4, expert_rows_share=0.65, expert_rows_s=85e-6, latent_rows_s=130e-6,
        # pp of gpt-oss, Qwen3 MoE; hybrids (Qwen3.6 35B, Nemotron 3 Nano)
        expert_prompt_share=0.58, expert_half_rows=15.0, half_rows=0.0, state_reuse=1.4,
        prompt_types={"BF16": 0.45},  # Qwen3.6 35B BF16 on a Radeon 8060S, three depths
    )  # fmt: skip


def _apple(read: float, layer_us: float, flops: float) -> CardFigures:
    return CardFigures(
        read_share=read, layer_overhead_s=layer_us * 1e-6, flops_per_byte=flops, launches=_APPLE,
        cache_share=0.9, attention_share=1.0,
        row_share=0.4, more_rows_share=0.4, expert_rows_share=1.0, expert_rows_s=0.0, latent_rows_s=0.0,
        expert_prompt_share=0.53, expert_half_rows=21.0, half_rows=0.0, state_reuse=4.0,
    )  # fmt: skip


_FIGURES = {
    ChipGeneration.PASCAL: _nvidia(0.87, 60, 38),  # Tesla P40
    ChipGeneration.PASCAL_HBM: _nvidia(0.6, 80, 25),  # none: as Volta's neighbour
    ChipGeneration.VOLTA: _nvidia(0.78, 95, 40),  # V100: 7B Q4_0, 27B Q4_K_M, DeepSeek V2 Lite
    ChipGeneration.TURING: _nvidia(0.9, 80, 56),  # Quadro RTX 6000 and 8000, RTX 2080
    ChipGeneration.AMPERE_HBM: _nvidia(0.56, 45, 49),  # A30; A100 of 2024 without CUDA graphs (90 us)
    ChipGeneration.AMPERE: _nvidia(0.9, 56, 75),  # RTX 3060 to 3090 Ti, A5000, A6000
    ChipGeneration.ADA: _nvidia(0.9, 40, 140),  # RTX 4070 Ti to 4090, L40
    ChipGeneration.HOPPER: _nvidia(0.56, 40, 62),  # H200 of docs/measurements.md; H100 of 2024 (90 us)
    ChipGeneration.BLACKWELL_HBM: _nvidia(0.56, 40, 62),  # none: as Hopper
    ChipGeneration.BLACKWELL: _nvidia(0.89, 38, 115),  # RTX 5060 Ti to 5090, RTX PRO 4000 and 6000
    ChipGeneration.GB10: _nvidia(0.85, 32, 130),  # GB10: gpt-oss, 30B-A3B, 7B at depths up to 32k
    ChipGeneration.VEGA: _amd(0.6, 110, 16),  # MI50
    ChipGeneration.CDNA: _amd(0.6, 110, 31),  # MI100
    ChipGeneration.CDNA3: _amd(0.6, 110, 40),  # none: as CDNA, with its operations guessed
    ChipGeneration.RDNA2: _amd(0.85, 80, 46),  # RX 6800 XT, W6800
    ChipGeneration.RDNA3: _amd(0.9, 72, 48),  # RX 7600, 7900 XTX, W7800
    ChipGeneration.RDNA3_5: _amd(0.9, 68, 78),  # Radeon 8060S
    # RX 9070, 9070 XT, R9700: 95 with ROCm and Vulkan of 2026, 48 with Vulkan of 2025
    ChipGeneration.RDNA4: _amd(0.92, 92, 62),
    ChipGeneration.ARC: _amd(0.8, 100, 18),  # none: B580 by a published ratio
    ChipGeneration.APPLE: _apple(0.86, 120, 21),  # M1 to M4, Pro and Max
    ChipGeneration.APPLE_ULTRA: _apple(0.72, 120, 21),  # M1 to M3 Ultra
}
_UNKNOWN = {
    DeviceKind.CUDA: _nvidia(0.9, 60, None),
    DeviceKind.ROCM: _amd(0.85, 90, 40),
    DeviceKind.VULKAN: _amd(0.8, 90, 40),
    DeviceKind.SYCL: _amd(0.8, 100, 40),
    DeviceKind.METAL: _apple(0.86, 120, 21),
}
PLAIN = CardFigures(
    read_share=1.0, layer_overhead_s=0.0, flops_per_byte=None, launches=_NVIDIA, cache_share=1.0,
    row_share=0.25, more_rows_share=0.25, expert_rows_share=1.0, expert_rows_s=0.0, latent_rows_s=0.0,
    expert_prompt_share=1.0, expert_half_rows=0.0, half_rows=0.0, attention_share=1.0, state_reuse=1.0,
)  # fmt: skip
"""For processors and RPC workers: kernels as they are measured."""


def figures_of(device: Device) -> CardFigures:
    """The figures of a device's generation, else of its back end; PLAIN for an RPC worker."""
    if device.kind is DeviceKind.RPC:
        return PLAIN
    generation = generation_of(device)
    return _UNKNOWN[device.kind] if generation is None else _FIGURES[generation]
