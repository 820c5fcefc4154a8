"""Estimate the speed of llama.cpp on a card without a calibration, from the card's datasheet.

A decode step reads the weights at a share of the memory's bandwidth, and has an overhead for each layer.
Both were fitted to published llama-bench figures of single cards, Llama 3 8B as F16 and as Q4_K_M (the
XiongjieDai GPU-Benchmarks-on-LLM-Inference tables of May 2024). With t = layers * overhead +
bytes / (share * bandwidth):

    RTX 3090, 4080, 4090, A40, A6000, L40S, 4000, 5000 and 6000 Ada: share 0.82 to 0.97, 73 to 103 us a layer
    A100 PCIe, H100 PCIe (HBM): share 0.48 and 0.65, 69 and 106 us
    M2 Ultra: share 0.90, 205 us; M1 Max and M3 Max: above 1, 550 and 264 us

Later builds of llama.cpp use CUDA graphs. From 51 measurements of one stream on 17 kinds of NVIDIA cards,
builds of 2025-26 (least squares of the logarithms, with the factors of planner/layer_times.py): Ada 0.90 and
40 us, Ampere 0.90 and 56, Blackwell 0.89 and 38, GB10 0.85 and 32. Fitted to one half of the cards and
models, the median error on the other half is 3.4 % (10 random halves; 5.3 % with the figures of 2024).

Radeon RX 7900 XTX: 105.8 tok/s with 8B Q4_K_M (pull request 26284), which is 110 us at a share of 0.85.
Vulkan: RX 9070 XT, 119.6 tok/s with the same model.

FLOP/s of prompts are proportional to bandwidth within a generation, because makers scale both. In prompts of
512 tokens, with 2 * 7.5e9 operations for a token of the 8B model, the operations for each byte per second of
bandwidth are: 65 to 80 on an RTX 3070, 3080 and 3090, and 106 to 117 on a 4070 Ti, 4080 and 4090 in those
tables; 140 to 154 since prompts use integer tensor cores (pull request 7676); 110 on Blackwell's cards, 130
on GB10, 50 on an RX 7900 XTX, 16 on an MI50 (pull request 27841), 15 to 26 on Apple's. Generations without a
figure get one between those of their neighbours. Further rows of a small batch run at a fifth to a half of
that rate: 8 rows against 1 on an RTX 3090 with Q4_0 (15802), 2 to 32 on a GB10.

If a step's graph returns to a card after another device, the card's kernels are launched again and the
activations are copied. That takes some 30 us: on an RTX 5080 with all experts on a Ryzen 9 9950X, against 24
of 40 layers' experts there, a layer takes 70 us more than reading; that includes two splits and the
processor's barriers.

In a prompt, the products of routed experts run at a share of the dense rate that depends on the rows of each
expert, r = micro-batch * used experts / all: 0.53 * r / (r + 21) on NVIDIA, 0.54 * r / (r + 13) on AMD (least
squares over published prompts of gpt-oss and Qwen3 MoE, builds of 2025-26).
"""

import dataclasses
from typing import NamedTuple

from vram_llm.machine.types import Device, DeviceKind, Fact, Link, Machine, Source, Speed


class _CardGeneration(NamedTuple):
    """The figures of all cards of one generation."""

    read_share: float  # of the bandwidth
    layer_overhead_s: float
    flops_per_byte: float | None  # of a prompt, for each byte per second of bandwidth; None: unknown


_HBM = (0.6, 80e-6)
_GDDR = (0.9, 60e-6)
_CUDA = {  # by compute capability
    "6.0": _CardGeneration(*_HBM, 25.0),
    "6": _CardGeneration(*_GDDR, 40.0),
    "7.0": _CardGeneration(*_HBM, 40.0),
    "7": _CardGeneration(*_GDDR, 60.0),
    "8.0": _CardGeneration(*_HBM, 45.0),
    "8.9": _CardGeneration(0.9, 40e-6, 140.0),
    "8": _CardGeneration(0.9, 56e-6, 75.0),
    "9": _CardGeneration(*_HBM, 60.0),
    "10": _CardGeneration(*_HBM, 60.0),
    "11": _CardGeneration(0.85, 32e-6, 130.0),  # Thor, like GB10
    "12.1": _CardGeneration(0.85, 32e-6, 130.0),  # GB10
    "12": _CardGeneration(0.89, 38e-6, 110.0),
}
_UNKNOWN_CUDA = _CardGeneration(*_GDDR, None)
_OTHERS = {
    DeviceKind.ROCM: _CardGeneration(0.85, 110e-6, 40.0),
    DeviceKind.VULKAN: _CardGeneration(0.8, 60e-6, 50.0),
    DeviceKind.SYCL: _CardGeneration(0.8, 100e-6, 50.0),
    DeviceKind.METAL: _CardGeneration(0.9, 230e-6, 20.0),
}
_ROW_SHARE = 0.4  # of the FLOP/s of prompts, for further rows of a small batch
STEP_OVERHEAD_S = 100e-6  # estimated: a graph's launch, a copy each way, a synchronisation
SPLIT_S = 30e-6  # estimated: launches, a copy, a synchronisation

# (limit of the share, rows at half of that limit), as explained above
_EXPERT_SHARES = {DeviceKind.ROCM: (0.54, 13.0)}
_OTHER_EXPERT_SHARE = (0.53, 21.0)

_PCIE_LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
_PCIE_SHARE = 0.8  # of the raw rate, without headers and flow control
_PCIE_LATENCY_S = 10e-6


def with_datasheet_speeds(machine: Machine) -> Machine:
    """`machine` with a speed from the datasheet for each device that has a bandwidth and no speed."""
    devices = (
        device
        if device.speed is not None
        else dataclasses.replace(device, speed=speed_from_datasheet(device))
        for device in machine.devices
    )
    return dataclasses.replace(machine, devices=tuple(devices))


def expert_share(kind: DeviceKind, rows: float) -> float:
    """The speed of experts' products in a prompt, with `rows` rows for each, as a share of the dense rate."""
    limit, half_rows = _EXPERT_SHARES.get(kind, _OTHER_EXPERT_SHARE)
    return limit * rows / (rows + half_rows)


def speed_from_datasheet(device: Device) -> Speed | None:
    """A device's speed from its bandwidth and generation; None for a worker, and if the bandwidth is unknown.

    Decode figures have the source of the bandwidth. FLOP/s are estimated.
    """
    bandwidth = device.bandwidth_bytes_per_s
    if bandwidth is None or device.kind is DeviceKind.RPC:  # a worker's card is unknown
        return None
    generation = _generation_of(device)
    flops_per_s = None
    if generation.flops_per_byte is not None:
        flops_per_s = generation.flops_per_byte * bandwidth.value
    return Speed(
        read_bytes_per_s=Fact(generation.read_share * bandwidth.value, bandwidth.source),
        layer_overhead_s=Fact(generation.layer_overhead_s, bandwidth.source),
        step_overhead_s=Fact(STEP_OVERHEAD_S, bandwidth.source),
        row_flops_per_s=None if flops_per_s is None else Fact(_ROW_SHARE * flops_per_s, Source.ESTIMATED),
        prompt_flops_per_s=None if flops_per_s is None else Fact(flops_per_s, Source.ESTIMATED),
    )


def pcie_link(generation: int | None, lanes: int | None, source: Source = Source.CATALOG) -> Link | None:
    """The link of a card in a slot of this generation and width; None if one of them is unknown."""
    if generation not in _PCIE_LANE_BYTES_PER_S or not lanes:
        return None
    bytes_per_s = _PCIE_SHARE * _PCIE_LANE_BYTES_PER_S[generation] * lanes
    return Link(latency_s=Fact(_PCIE_LATENCY_S, Source.ESTIMATED), bytes_per_s=Fact(bytes_per_s, source))


def _generation_of(device: Device) -> _CardGeneration:
    if device.kind is not DeviceKind.CUDA:
        return _OTHERS[device.kind]
    capability = device.compute_capability or ""
    return _CUDA.get(capability) or _CUDA.get(capability.partition(".")[0]) or _UNKNOWN_CUDA
