"""Sums of a tensor split: the way that llama.cpp takes, and its seconds."""

from dataclasses import replace

import pytest

from tests.planner.saved import local, remote
from vram_llm.machine.types import (
    CardPair,
    Device,
    DeviceKind,
    Fact,
    Link,
    MeasuredSum,
    Source,
    SumFacts,
)
from vram_llm.planner.all_reduce import sum_cost

UNKNOWN, WITHOUT_NCCL, NCCL = SumFacts(), SumFacts(uses_nccl=False), SumFacts(uses_nccl=True)
KB = 20 * 1024  # of a token, 5120 elements


def behind(latency_s: float, bytes_per_s: float = 1e12) -> Device:
    """A worker behind a link."""
    link = Link(latency_s=Fact(latency_s, Source.MEASURED), bytes_per_s=Fact(bytes_per_s, Source.MEASURED))
    return remote(0, "far:1", link=link)


def cards(n: int, capability: str = "8.6", kind: DeviceKind = DeviceKind.CUDA) -> list[Device]:
    """Cards in slots of PCIe 4 with 16 lanes."""
    link = Link(latency_s=Fact(1e-5, Source.CATALOG), bytes_per_s=Fact(25e9, Source.CATALOG))
    return [replace(local(i), kind=kind, compute_capability=capability, link=link) for i in range(n)]


def pairs(n: int, *, nvlink: bool = False) -> SumFacts:
    """NCCL, and peer access between all cards."""
    uuids = [card.uuid or "" for card in cards(n)]
    found = (
        CardPair(uuids=frozenset((one, other)), has_peer_access=True, has_nvlink=nvlink)
        for i, one in enumerate(uuids)
        for other in uuids[:i]
    )
    return SumFacts(pairs=tuple(found), uses_nccl=True)


@pytest.mark.parametrize(
    ("latencies_ms", "round_trips_ms"),
    [
        ((0, 52), 104),  # a read from each; the far one's takes a round trip: 110 ms were measured
        ((50, 50), 200),
        ((50, 50, 50), 400),  # a fold, two copies, and one back
        ((50, 50, 50, 50), 800),
    ],
)
def test_a_copy_waits_for_the_worker_it_reads_from(
    latencies_ms: tuple[float, ...], round_trips_ms: float
) -> None:
    workers = [behind(ms / 1000) for ms in latencies_ms]
    cost = sum_cost(workers, UNKNOWN)
    assert 0 <= 1000 * cost.seconds(0) - round_trips_ms < 2
    assert (cost.source, cost.way) == (Source.ESTIMATED, "copies through this computer")


def test_bytes_cross_the_links_of_both_workers() -> None:
    cost = sum_cost([behind(0.001, 1e6), behind(0.001, 1e6)], UNKNOWN)
    assert cost.seconds(1e6) - cost.seconds(0) == pytest.approx(4)  # two copies, each over two links


def test_a_link_that_nobody_measured_is_assumed() -> None:
    assert sum_cost([remote(0, "a:1"), remote(1, "b:1")], UNKNOWN).source is Source.ASSUMED


@pytest.mark.parametrize(
    ("devices", "facts", "way"),
    [
        (cards(2), UNKNOWN, "llama.cpp's own sum of two cards, over the host's memory"),
        (cards(2), WITHOUT_NCCL, "llama.cpp's own sum of two cards, over the host's memory"),
        (cards(2, kind=DeviceKind.ROCM), UNKNOWN, "llama.cpp's own sum of two cards, over the host's memory"),
        (cards(2), NCCL, "NCCL over the host's memory"),
        (cards(2), pairs(2), "NCCL over peer access"),
        (cards(2), pairs(2, nvlink=True), "NCCL over NVLink"),
        (cards(3), UNKNOWN, "NCCL over the host's memory, which is assumed"),
        (cards(3), pairs(2), "NCCL over the host's memory"),  # the third has no peers
        (cards(3), WITHOUT_NCCL, "copies from card to card over the host's memory"),
        (cards(2, "6.1"), WITHOUT_NCCL, "copies from card to card over the host's memory"),
        (cards(2, kind=DeviceKind.VULKAN), UNKNOWN, "copies from card to card over the host's memory"),
        (cards(3, kind=DeviceKind.ROCM), NCCL, "copies from card to card over the host's memory"),
    ],
)
def test_the_way_of_a_sum(devices: list[Device], facts: SumFacts, way: str) -> None:
    cost = sum_cost(devices, facts)
    assert (cost.way, cost.source) == (way, Source.ESTIMATED)


def test_three_cards_take_longer_than_two_and_copies_longer_than_nccl() -> None:
    """A ring of three has two steps more; copies are a fold, an exchange, and a copy back."""
    two, three = (sum_cost(cards(n), NCCL).seconds(KB) for n in (2, 3))
    assert three == pytest.approx(2 * two, rel=0.1)
    hop, hops = (sum_cost(cards(n, "6.1"), WITHOUT_NCCL).seconds(KB) for n in (2, 3))
    assert hops == pytest.approx(3 * hop)
    assert hops > 2 * three


def test_ways_between_cards_in_order() -> None:
    ways = (pairs(2), WITHOUT_NCCL, NCCL)
    assert sorted(sum_cost(cards(2), facts).latency_s for facts in ways) == [
        sum_cost(cards(2), facts).latency_s for facts in ways
    ]


def test_the_own_kernel_sends_half_of_the_bytes_of_a_small_sum() -> None:
    cost = sum_cost(cards(2), UNKNOWN)
    few, many = (n * (cost.seconds(n * 2**20) - cost.latency_s) ** -1 * 2**20 for n in (1, 8))
    assert few == pytest.approx(50e9)
    assert many == pytest.approx(25e9)


@pytest.mark.parametrize("facts", [UNKNOWN, NCCL])
def test_a_measured_sum_replaces_the_estimate(facts: SumFacts) -> None:
    devices = cards(3)
    measured = MeasuredSum(device_ids=frozenset(("GPU0", "GPU2")), latency_s=4e-5, bytes_per_s=1e9)
    facts = replace(facts, measured=(measured,))
    cost = sum_cost([devices[2], devices[0]], facts)
    assert cost.seconds(1e6) == pytest.approx(1.04e-3)
    assert cost.source is Source.MEASURED
    assert sum_cost(devices, facts).source is Source.ESTIMATED
