"""Seconds of the sums that devices of a tensor split make together, twice in a usual layer.

`vram-llm calibrate` measures them. Unmeasured, they cost what the way costs that llama.cpp would take:

workers     A partial sum is copied from one worker to this computer and on to the other, one copy after the
            other (`allreduce_fallback` in ggml-backend-meta.cpp): 2 copies for two devices, 4 for three, 8
            for four. A copy waits for a round trip to the worker that it reads from; writes are not answered
            (`RPC_CMD_SET_TENSOR` in ggml-rpc.cpp). Two workers, one behind a link of 52 ms each way: 110 ms a
            sum. The bytes cross both links.
own         llama.cpp's kernel for two cards of NVIDIA (from Volta on) or AMD, through the host's memory
            whatever the link (ggml-cuda/allreduce.cu). It sends bfloat16, half of the bytes, up and down at
            the same time; a large sum goes up, then down.
NCCL        For any number of NVIDIA's cards, if llama.cpp is linked with it: a ring of 2 (n - 1) steps, in
            which each card sends 2 (n - 1) / n of the bytes; over peer access, else through the host.
copies      For all others the cards copy through the host and add up: an exchange for two cards, and for a
            number that is no power of two a fold before it and a copy after it.

Figures of cards are fitted to decode speeds of 27B models (bench/tensor_rows.csv, printed by `python -m
bench.corpus`): seven pairs with llama.cpp's own kernel 7 to 27 us a sum, two RTX 5090 with NCCL over peer
access 9, two RTX 3090 and a 3090 Ti 58. Copies are a guess from two Tesla P40 on two processors: some 80.
Bytes: prompts of two RTX 5090, published in ggml-org/llama.cpp#22299, where copies took three times as long.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from vram_llm.machine.assumed_speed import device_link, offload_link
from vram_llm.machine.types import Device, DeviceKind, Source, SumFacts
from vram_llm.model.profile import ModelProfile

_OWN_S, _OWN_SHARE_OF_FEW = 20e-6, 0.5
_MANY_BYTES = 2 * 2**20  # twice GGML_CUDA_AR_COPY_THRESHOLD_DEFAULT, since half of a sum's bytes are sent
_PEER_STEP_S, _HOST_STEP_S = 5e-6, 12e-6  # of NCCL's ring
_COPY_S = 60e-6
_COPIES_OF_BYTES = 3  # of the time that the bytes take over the link
_NVLINK_BYTES_PER_S = 40e9
_OWN_KERNEL = (DeviceKind.CUDA, DeviceKind.ROCM, DeviceKind.SYCL)
_OLDEST_CAPABILITY = 7.0  # of the own kernel: Volta
_MESSAGE_S = 150e-6  # of a worker's copy besides its link: two commands, and a graph of one addition
_SUMMED = (".attn_output.weight", ".ssm_out.weight", ".ffn_down.weight", ".ffn_down_exps.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class SumCost:
    """The time of one sum, and the way that llama.cpp takes."""

    latency_s: float
    byte_s: float  # for each byte of the sum
    source: Source
    way: str  # "NCCL over peer access"
    share_of_few: float = 1.0  # of byte_s, for sums below _MANY_BYTES

    def seconds(self, n_bytes: float) -> float:
        """Seconds until each device has the sum of `n_bytes` bytes of all."""
        byte_s = self.byte_s if n_bytes >= _MANY_BYTES else self.share_of_few * self.byte_s
        return self.latency_s + n_bytes * byte_s


def n_sums(profile: ModelProfile) -> int:
    """The all-reduces of a step: one for each matrix that is divided by columns."""
    return sum(
        any(tensor.name.endswith(name) for tensor in layer.tensors)
        for layer in profile.layers
        if not layer.is_draft
        for name in _SUMMED
    )


def sum_cost(devices: Sequence[Device], facts: SumFacts) -> SumCost:
    """The cost of a sum over these devices: measured, else by the way that llama.cpp takes."""
    ids = frozenset(device.id for device in devices)
    measured = next((each for each in facts.measured if each.device_ids == ids), None)
    if measured is not None:
        return SumCost(
            latency_s=measured.latency_s,
            byte_s=1 / measured.bytes_per_s,
            source=Source.MEASURED,
            way=_way(devices, facts),
        )
    if any(device.kind is DeviceKind.RPC for device in devices):
        return _over_workers(devices, facts)
    n, slowest = len(devices), min(offload_link(device).bytes_per_s.value for device in devices)
    share_of_few = 1.0
    if _has_nccl(devices, facts):
        step_s = _PEER_STEP_S if _have(devices, facts, peers=True) else _HOST_STEP_S
        rate = _NVLINK_BYTES_PER_S if _have(devices, facts, nvlink=True) else slowest
        latency_s, byte_s = 2 * (n - 1) * step_s, 2 * (n - 1) / n / rate
    elif _has_own_kernel(devices):
        latency_s, byte_s, share_of_few = _OWN_S, 1 / slowest, _OWN_SHARE_OF_FEW
    else:
        n_hops = math.floor(math.log2(n)) + 2 * (not _is_power_of_two(n))
        latency_s, byte_s = n_hops * _COPY_S, n_hops * _COPIES_OF_BYTES / slowest
    return SumCost(
        latency_s=latency_s,
        byte_s=byte_s,
        source=Source.ESTIMATED,
        way=_way(devices, facts),
        share_of_few=share_of_few,
    )


def _over_workers(devices: Sequence[Device], facts: SumFacts) -> SumCost:
    links = [link for device in devices if (link := device_link(device)) is not None]
    round_trip_s = 2 * sum(link.latency_s.value for link in links) / len(devices)
    byte_s = 2 * sum(1 / link.bytes_per_s.value for link in links) / len(devices)
    n_copies = _n_copies(len(devices))
    sources = [fact.source for link in links for fact in (link.latency_s, link.bytes_per_s)]
    return SumCost(
        latency_s=n_copies * (_MESSAGE_S + round_trip_s),
        byte_s=n_copies * byte_s,
        source=Source.ASSUMED if Source.ASSUMED in sources else Source.ESTIMATED,
        way=_way(devices, facts),
    )


def _way(devices: Sequence[Device], facts: SumFacts) -> str:
    if any(device.kind is DeviceKind.RPC for device in devices):
        return "copies through this computer"
    if _has_nccl(devices, facts):
        over = "NVLink" if _have(devices, facts, nvlink=True) else "the host's memory"
        over = "peer access" if over != "NVLink" and _have(devices, facts, peers=True) else over
        is_assumed = "" if facts.uses_nccl else ", which is assumed"
        return f"NCCL over {over}{is_assumed}"
    if _has_own_kernel(devices):
        return "llama.cpp's own sum of two cards, over the host's memory"
    return "copies from card to card over the host's memory"


def _has_nccl(devices: Sequence[Device], facts: SumFacts) -> bool:
    """Whether NCCL adds up; unknown, it is assumed where the own kernel does not."""
    if any(device.kind is not DeviceKind.CUDA for device in devices):
        return False
    return facts.uses_nccl or (facts.uses_nccl is None and not _has_own_kernel(devices))


def _has_own_kernel(devices: Sequence[Device]) -> bool:
    """Whether llama.cpp's own kernel adds up: for two cards of one kind, NVIDIA's from Volta on."""
    kinds = {device.kind for device in devices}
    old = [
        device
        for device in devices
        if device.compute_capability is not None and float(device.compute_capability) < _OLDEST_CAPABILITY
    ]
    return len(devices) == 2 and len(kinds) == 1 and kinds <= set(_OWN_KERNEL) and not old


def _have(devices: Sequence[Device], facts: SumFacts, *, peers: bool = False, nvlink: bool = False) -> bool:
    """Whether every two of the cards have peer access, or NVLink; unknown: no."""
    ways = {pair.uuids: pair for pair in facts.pairs}
    found = [
        ways.get(frozenset((one.uuid or "", other.uuid or ""))) for one, other in combinations(devices, 2)
    ]
    return all(
        pair is not None and (pair.has_peer_access or not peers) and (pair.has_nvlink or not nvlink)
        for pair in found
    )


def _is_power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def _n_copies(n_devices: int) -> int:
    """Copies of a butterfly, with a fold before and a copy after it for devices beyond a power of two."""
    n_steps = int(math.log2(n_devices))
    return n_steps * (1 << n_steps) + 2 * (n_devices - (1 << n_steps))
