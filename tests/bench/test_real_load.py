"""Lengths are exact with a real tokenizer and a real engine."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import PlanOnCpu
from tests.server.live import listening_with
from vram_llm import demo
from vram_llm.bench.arrivals import LoadShape
from vram_llm.bench.load_test import LoadTest, LoadWatch, run_test
from vram_llm.bench.random_prompts import RandomPrompts
from vram_llm.bench.stream_client import StreamClient

pytestmark = pytest.mark.process
DATASET = RandomPrompts(input_tokens=48, output_tokens=8, range_ratio=0.25, prefix_tokens=16)


@pytest.fixture
async def url(plan_on_cpu: PlanOnCpu) -> AsyncIterator[str]:
    async with listening_with(plan_on_cpu(demo.path(), n_ctx=1024, parallel=4), "demo") as url:
        yield url


async def test_tokens_asked_for_are_tokens_counted(url: str) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        test = LoadTest(
            dataset=DATASET,
            path=path,
            n_prompts=6,
            n_warmups=1,
            ignore_eos=True,
            shape=LoadShape(max_concurrency=3),
        )
        client, notes = StreamClient(url, {}), list[str]()
        try:
            result = await run_test(client, test, LoadWatch(on_note=notes.append))
        finally:
            client.close()
        assert not [outcome.error for outcome in result.run.outcomes if outcome.error]
        assert not notes  # a note would name other lengths
        assert {36 + 16 <= outcome.prompt_tokens <= 60 + 16 for outcome in result.run.outcomes} == {True}
        assert {6 <= outcome.n_output <= 10 for outcome in result.run.outcomes} == {True}
        assert result.metrics.peak_concurrent_requests <= 3
