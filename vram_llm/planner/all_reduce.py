"""Seconds of the sums that devices of a tensor split make together, twice in a usual layer.

Workers: llama.cpp copies a partial sum from one worker to this computer and on to the other, one copy after
the other (`allreduce_fallback` in ggml-backend-meta.cpp): 2 copies for two devices, 4 for three, 8 for four.
A copy waits for a round trip to the worker that it reads from; writes are not answered (`RPC_CMD_SET_TENSOR`
in ggml-rpc.cpp). Two workers, one behind a link of 52 ms each way: 110 ms a sum. The bytes cross both links.

NVIDIA cards have NCCL's all-reduce, or llama.cpp's own for two; other cards copy. Two RTX 5060 Ti on PCIe 3
x8 without peer access, 27B Q4_K_M of 64 layers: 22.6 tok/s by layers and 38.4 by tensors, prompts 1,028 tok/s
(sudoingX/qwen38-mtp, 2026-08). Half of the time by layers would be 22.1 ms and 26.0 were measured, for 128
sums: 30 us each, of which 10 are launches that no device shares. In prompts the bytes of a sum cross a link
once in each direction at the same time.
"""

import math
from collections.abc import Sequence

from vram_llm.machine.assumed_speed import device_link, offload_link
from vram_llm.machine.types import Device, DeviceKind
from vram_llm.model.profile import ModelProfile

_CARD_LATENCY_S = 20e-6
_MESSAGE_S = 150e-6  # of a worker's copy besides its link: two commands, and a graph of one addition
_SUMMED = (".attn_output.weight", ".ssm_out.weight", ".ffn_down.weight", ".ffn_down_exps.weight")


def n_sums(profile: ModelProfile) -> int:
    """The all-reduces of a step: one for each matrix that is divided by columns."""
    return sum(
        any(tensor.name.endswith(name) for tensor in layer.tensors)
        for layer in profile.layers
        if not layer.is_draft
        for name in _SUMMED
    )


def all_reduce_s(devices: Sequence[Device], n_bytes: float) -> float:
    """Seconds until each of the devices has the sum of `n_bytes` bytes of all."""
    if any(device.kind is DeviceKind.RPC for device in devices):
        links = [link for device in devices if (link := device_link(device)) is not None]
        round_trip_s = 2 * sum(link.latency_s.value for link in links) / len(devices)
        byte_s = 2 * sum(1 / link.bytes_per_s.value for link in links) / len(devices)
        return _n_copies(len(devices)) * (_MESSAGE_S + round_trip_s + n_bytes * byte_s)
    slowest = min(offload_link(device).bytes_per_s.value for device in devices)
    n_steps = math.ceil(math.log2(len(devices)))
    return n_steps * (_CARD_LATENCY_S + n_bytes / slowest)


def _n_copies(n_devices: int) -> int:
    """Copies of a butterfly, with a fold before and a copy after it for devices beyond a power of two."""
    n_steps = int(math.log2(n_devices))
    return n_steps * (1 << n_steps) + 2 * (n_devices - (1 << n_steps))
