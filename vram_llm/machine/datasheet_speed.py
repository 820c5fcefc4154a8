"""Estimate the speed of llama.cpp on a card without a calibration, from the card's datasheet.

A decode step reads the weights at a share of the memory's bandwidth, and has an overhead for each layer:
t = layers * overhead + bytes / (share * bandwidth). Builds of 2024, without CUDA graphs, had 60 to 110 us a
layer (Llama 3 8B as F16 and Q4_K_M, GPU-Benchmarks-on-LLM-Inference tables of May 2024); today's have 30 to
60 us on NVIDIA's cards. FLOP/s of prompts are proportional to bandwidth within a generation, because makers
scale both. The figures of each generation are in card_figures.py.

If a step's graph returns to a card after another device, the card's kernels are launched again and the
activations are copied. That takes some 30 us: on an RTX 5080 with all experts on a Ryzen 9 9950X, against 24
of 40 layers' experts there, a layer takes 70 us more than reading; that includes two splits and the
processor's barriers.
"""

import dataclasses

from vram_llm.machine.card_figures import figures_of
from vram_llm.machine.types import Device, DeviceKind, Fact, Link, Machine, Source, Speed

STEP_OVERHEAD_S = 100e-6  # estimated: a graph's launch, a copy each way, a synchronisation
SPLIT_S = 30e-6  # estimated: launches, a copy, a synchronisation

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


def speed_from_datasheet(device: Device) -> Speed | None:
    """A device's speed from its bandwidth and generation; None for a worker, and if the bandwidth is unknown.

    Decode figures have the source of the bandwidth. FLOP/s are estimated.
    """
    bandwidth = device.bandwidth_bytes_per_s
    if bandwidth is None or device.kind is DeviceKind.RPC:  # a worker's card is unknown
        return None
    figures = figures_of(device)
    flops_per_s = None
    if figures.flops_per_byte is not None:
        flops_per_s = figures.flops_per_byte * bandwidth.value
    return Speed(
        read_bytes_per_s=Fact(figures.read_share * bandwidth.value, bandwidth.source),
        layer_overhead_s=Fact(figures.layer_overhead_s, bandwidth.source),
        step_overhead_s=Fact(STEP_OVERHEAD_S, bandwidth.source),
        row_flops_per_s=None
        if flops_per_s is None
        else Fact(figures.row_share * flops_per_s, Source.ESTIMATED),
        prompt_flops_per_s=None if flops_per_s is None else Fact(flops_per_s, Source.ESTIMATED),
    )


def pcie_link(generation: int | None, lanes: int | None, source: Source = Source.CATALOG) -> Link | None:
    """The link of a card in a slot of this generation and width; None if one of them is unknown."""
    if generation not in _PCIE_LANE_BYTES_PER_S or not lanes:
        return None
    bytes_per_s = _PCIE_SHARE * _PCIE_LANE_BYTES_PER_S[generation] * lanes
    return Link(latency_s=Fact(_PCIE_LATENCY_S, Source.ESTIMATED), bytes_per_s=Fact(bytes_per_s, source))
