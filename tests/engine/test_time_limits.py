"""Requests whose time is over: an answer that has begun ends as at max_tokens, another one is an error."""

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.clients import answer, begun, exhaust, request
from tests.engine.harness import any_steps, full_step, loaded, make_request, run, text_of, tokens_of
from tests.patience import soon
from vram_llm.engine import client
from vram_llm.engine.client import EngineClient
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import FinishReason, Grammar, GrammarKind
from vram_llm.errors import RequestTimeout


def test_a_loop_finishes_requests_in_every_state(plan_on_cpu: PlanOnCpu) -> None:
    with loaded(plan_on_cpu(n_ctx=512, parallel=1)) as model:
        loop = Loop(model)
        whole = run(loop, make_request("whole", max_tokens=30))["whole"]
        loop.submit(make_request("runs", max_tokens=30))
        loop.submit(make_request("waits", prompt=(1, 2)))
        grammar = Grammar(kind=GrammarKind.REGEX, text="a+", field="guided_regex")
        loop.submit(make_request("compiles", prompt=(1, 3), grammar=grammar))
        events = []
        for event in any_steps(loop):  # steady ones among them
            events.append(event)
            if len(tokens_of(events)) == 12:
                break
        ends = {name: loop.finish(name) for name in ("runs", "waits", "compiles", "unknown")}
        assert (ends["runs"].finish_reason, ends["runs"].completion_tokens) == (FinishReason.LENGTH, 12)
        assert text_of(whole).startswith(text_of([*events, ends["runs"]]))
        assert tokens_of(events) == tokens_of(whole)[:12]
        for name in ("waits", "compiles", "unknown"):
            assert (ends[name].finish_reason, ends[name].error_code) == (
                FinishReason.ERROR,
                "request_timeout",
            )
        assert loop.is_idle
        run(loop, make_request("last", grammar=grammar, max_tokens=1))  # nothing compiles any more
        assert full_step(loop) == []
        assert not loop._scheduler.running
        assert not loop._scheduler.waiting


@pytest.mark.process
async def test_in_the_queue(engine: EngineClient) -> None:
    streams = [await begun(engine, f"{i}") for i in range(2)]  # in both slots
    with pytest.raises(RequestTimeout, match=r"0\.05 s, was over before its answer had begun"):
        await soon(answer(engine, "late", max_time_s=0.05))
    for stream in streams:
        await stream.aclose()
    assert (await soon(answer(engine, "later", max_time_s=3600)))[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.process
async def test_while_it_runs(engine: EngineClient) -> None:
    stream = engine.generate(request("r", max_tokens=None, max_time_s=3600))
    events = [await soon(anext(stream))]
    assert engine.in_flight.finish("r")  # as the timer does
    events += [event async for event in stream]
    assert events[-1].finish_reason is FinishReason.LENGTH
    assert events[-1].completion_tokens == len(tokens_of(events)) < 30_000
    assert not engine.in_flight.finish("r")


@pytest.mark.process
async def test_an_engine_that_does_not_answer(engine: EngineClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FINISH_GRACE_S", 0.05)
    stream = await begun(engine, "r", max_time_s=0.5)
    monkeypatch.setattr(engine.in_flight, "finish", lambda request_id: True)
    with pytest.raises(RequestTimeout):
        await soon(exhaust(stream))
