"""The search for the knee, over servers that are formulas, and over one that answers."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.test_load_test import FEW, listening
from tests.bench.timed_server import TimedServer
from vram_llm.bench.load_test import LoadResult, LoadWatch, open_server
from vram_llm.bench.metrics import LoadMetrics, metrics_of
from vram_llm.bench.outcome import RequestOutcome
from vram_llm.bench.plot import plot_sweep
from vram_llm.bench.run_load import LoadRun
from vram_llm.bench.sweep import LoadPoint, knee, next_load, sweep

N_TOKENS = 10


def metrics(load: int, step_s: Callable[[int], float], target_ms: float | None) -> LoadMetrics:
    """Those of `load` streams that get a token each step."""
    itl_s = step_s(load)
    times = [itl_s * i for i in range(1, N_TOKENS + 1)]
    outcomes = tuple(RequestOutcome(5, 0.0, 0.0, times, N_TOKENS) for _ in range(load))
    return metrics_of(LoadRun(outcomes, times[-1]), {"tpot": target_ms} if target_ms else None)


def searched(step_s: Callable[[int], float], most: int, target_ms: float | None = None) -> list[LoadPoint]:
    """The points of a search, in the order in which they were measured."""
    points: list[LoadPoint] = []
    while (load := next_load(points, most)) is not None:
        assert load not in [point.concurrency for point in points]
        points.append(LoadPoint(load, metrics(load, step_s, target_ms)))
    return points


def full_at(n: int) -> Callable[[int], float]:
    """A server whose steps take 20 ms, and longer with more than `n` streams."""
    return lambda load: 0.02 * max(load / n, 1)


@pytest.mark.parametrize("n", [1, 5, 24, 200])
def test_the_knee_of_a_server_that_is_full_at_a_load(n: int) -> None:
    points = searched(full_at(n), 256)
    found = knee(points)
    assert found is not None
    assert n / 1.3 <= found.concurrency <= n * 1.3
    assert len(points) <= 14
    assert max(point.concurrency for point in points) <= 4 * n


@pytest.mark.parametrize(("target_ms", "most_streams"), [(20.001, 24), (50.0, 60), (1000.0, 256)])
def test_the_most_load_within_targets(target_ms: float, most_streams: int) -> None:
    points = searched(full_at(24), 256, target_ms)
    found = knee(points)
    assert found is not None
    assert most_streams / 1.45 <= found.concurrency <= most_streams
    assert found.is_good


def test_no_load_meets_the_targets() -> None:
    points = searched(full_at(24), 256, 1.0)
    assert [point.concurrency for point in points] == [1]
    assert knee(points) is None


def test_loads_that_the_server_refuses() -> None:
    def refusing_above(most: int) -> list[LoadPoint]:
        points: list[LoadPoint] = []
        while (load := next_load(points, 256)) is not None:
            run = metrics(load, full_at(200), None)
            points.append(LoadPoint(load, run if load <= most else replace(run, completed=0, failed=load)))
        return points

    found = knee(refusing_above(20))
    assert found is not None
    assert 14 <= found.concurrency <= 20
    assert [point.concurrency for point in refusing_above(0)] == [1]
    assert knee(refusing_above(0)) is None


def test_no_more_than_the_bound() -> None:
    assert [point.concurrency for point in searched(full_at(200), 6)][:4] == [1, 2, 4, 6]
    assert searched(full_at(200), 1)[0].concurrency == 1


async def test_a_sweep_asks_four_requests_for_each_at_a_time() -> None:
    server, results = TimedServer(), list[LoadResult]()
    test = replace(FEW, n_prompts=12, n_warmups=1)
    stages: list[tuple[str, int]] = []
    watch = LoadWatch(on_stage=lambda name, n: stages.append((name, n)))
    async with listening(server) as client:
        opened = await open_server(client, test, watch)
        points = await sweep(opened, test, lambda _, result: results.append(result))
    assert ("1 at a time", 4) in stages
    assert [point.concurrency for point in points] == sorted(point.concurrency for point in points)
    assert len(results) == len(points)
    assert all(n == min(12, 4 * int(name.split()[0])) for name, n in stages if "at a time" in name)


@pytest.mark.process  # matplotlib asks fc-list for fonts
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is an extra")
@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_picture(tmp_path: Path, ending: str) -> None:
    points = sorted(searched(full_at(5), 64), key=lambda point: point.concurrency)
    path = tmp_path / f"knee.{ending}"
    plot_sweep(points, "some-model", path)
    assert path.stat().st_size > 10_000
