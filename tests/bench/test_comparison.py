"""Two servers in turn."""

from dataclasses import replace

import pytest

from tests.bench.test_load_test import FEW, listening
from tests.bench.test_metrics import EVEN, SLOW
from tests.bench.timed_server import TimedServer
from vram_llm.bench.comparison import FIGURES, compare, compared
from vram_llm.bench.load_test import LoadWatch, open_server
from vram_llm.bench.metrics import metrics_of
from vram_llm.bench.run_load import LoadRun


def test_ratios_of_each_round() -> None:
    even, slow = metrics_of(LoadRun((EVEN,), 1.0)), metrics_of(LoadRun((SLOW,), 2.0))
    figures = {figure.name: figure for figure in compared([(even, slow), (even, even), (slow, even)])}
    assert set(figures) == set(FIGURES)
    throughput = figures["Request throughput (req/s)"]
    assert throughput.ratios == (0.5, 1.0, 2.0)
    assert throughput.ratio == 1.0
    assert figures["Median TTFT (ms)"].ratios == pytest.approx((5.0, 1.0, 0.2))
    nothing = metrics_of(LoadRun((), 1.0))
    assert compared([(nothing, even)])[0].ratio is None


async def test_rounds_change_who_is_first() -> None:
    one, two, order = TimedServer(model="one"), TimedServer(model="two"), list[str]()
    test = replace(FEW, model=None, n_prompts=2, n_warmups=1)

    def on_stage(name: str, _n: int) -> None:
        order.append(name.rpartition(":")[2])

    async with listening(one) as first, listening(two) as second:
        watch = LoadWatch(on_stage)
        servers = [await open_server(client, test, watch) for client in (first, second)]
        order.clear()
        rounds = await compare((servers[0], servers[1]), test, 2)
        ports = [client.url.rpartition(":")[2] for client in (first, second)]
    assert [port for port in order if port in ports] == [*ports, *ports[::-1]]
    assert [(a.model, b.model) for a, b in rounds] == [("one", "two")] * 2
    prompts = [each["prompt"] for each in one.requests if each["max_tokens"] == 5]
    assert prompts == [each["prompt"] for each in two.requests if each["max_tokens"] == 5]
    assert len(set(prompts)) == len(prompts) == 5  # a warm-up and two rounds
