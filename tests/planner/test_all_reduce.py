"""Seconds of sums between workers: round trips and bytes, by the number of devices."""

import pytest

from tests.planner.saved import remote
from vram_llm.machine.types import Device, Fact, Link, Source
from vram_llm.planner.all_reduce import all_reduce_s


def behind(latency_s: float, bytes_per_s: float = 1e12) -> Device:
    """A worker behind a link."""
    link = Link(latency_s=Fact(latency_s, Source.MEASURED), bytes_per_s=Fact(bytes_per_s, Source.MEASURED))
    return remote(0, "far:1", link=link)


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
    assert 0 <= 1000 * all_reduce_s(workers, 0) - round_trips_ms < 2


def test_bytes_cross_the_links_of_both_workers() -> None:
    slow = [behind(0.001, 1e6), behind(0.001, 1e6)]
    seconds = all_reduce_s(slow, 1e6) - all_reduce_s(slow, 0)
    assert seconds == pytest.approx(4)  # two copies, each over two links
