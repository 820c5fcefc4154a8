"""The client over a real engine process: loading, streams, cancels, refusals."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.clients import answer, begun, refusal_of, request, with_path
from tests.engine.harness import EXACT, Start, engine_processes, tokens_of, write_f32
from tests.patience import soon, until
from tests.workers import running_workers
from vram_llm.engine import client
from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request import EmbeddingRequest, FinishReason, Image, SamplingParams
from vram_llm.errors import (
    BadPlan,
    ContextExceeded,
    EngineDied,
    ModelRefused,
    Overloaded,
    RequestError,
    WorkerUnreachable,
)
from vram_llm.llama import rpc
from vram_llm.machine import detect as machines
from vram_llm.machine.types import Host, Machine
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import HOST, Workload
from vram_llm.workflows import detection

pytestmark = pytest.mark.process

# -- loading -------------------------------------------------------------------------------------


async def test_ready_returns_the_models_facts(start: Start, plan_on_cpu: PlanOnCpu, tiny_model: Path) -> None:
    seen: list[tuple[EngineState, float]] = []
    plan = plan_on_cpu(n_ctx=300, parallel=3)
    engine = start(plan, on_state=lambda client: seen.append((client.state, client.load_fraction)))
    assert engine.state is EngineState.LOADING
    info = await soon(engine.ready())
    profile = detection.analyze(str(tiny_model))
    assert (info.name, info.path, info.architecture) == ("tiny", str(tiny_model), "llama")
    assert (info.parameters, info.size_bytes) == (profile.parameters, profile.total_bytes)
    assert (info.n_vocab, info.n_ctx, info.n_ctx_train, info.parallel) == (320, 512, 4096, 3)
    assert (info.bos_token, info.eos_token, info.chat_template) == ("<s>", "</s>", None)
    assert {device: use.context_bytes for device, use in info.memory.items()} == {
        HOST: plan.estimate.host.context_bytes
    }
    fractions = [fraction for state, fraction in seen if state is EngineState.LOADING]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert seen[-1][0] is EngineState.READY
    assert len(engine_processes()) == 1


async def test_requests_before_the_load_are_refused(start: Start, plan_on_cpu: PlanOnCpu) -> None:
    engine = start(plan_on_cpu())
    with pytest.raises(EngineDied, match="the engine is not ready: starting"):
        await answer(engine, "r")


async def test_a_model_llama_cpp_refuses(
    start: Start, plan_on_cpu: PlanOnCpu, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_model.read_bytes()[:-5000])
    refusal = await refusal_of(start(with_path(plan_on_cpu(), path)))
    assert (type(refusal), refusal.exit_code) == (ModelRefused, 31)
    assert str(refusal).startswith("llama.cpp will not load cut.gguf: ")


async def test_a_plan_for_cards_that_are_not_here(start: Start, tiny_model: Path) -> None:
    plan = make_plan(detection.analyze(str(tiny_model)), machines.what_if(["RTX 3090"]), Workload(n_ctx=256))
    refusal = await refusal_of(start(plan))
    assert (type(refusal), refusal.exit_code) == (BadPlan, 23)


async def test_a_worker_that_has_gone(start: Start, tiny_model: Path, host: Host) -> None:
    with running_workers(1) as endpoints:
        machine = Machine(devices=rpc.devices(endpoints), host=host)
        plan = make_plan(
            detection.analyze(str(tiny_model)),
            machine,
            Workload(n_ctx=256, tensor_split=TensorSplit((1,)), reserve_bytes=0),
        )
    refusal = await refusal_of(start(plan))
    assert (type(refusal), refusal.exit_code) == (WorkerUnreachable, 21)
    assert endpoints[0] in str(refusal)


# -- requests ------------------------------------------------------------------------------------


async def test_generate(engine: EngineClient) -> None:
    events = await soon(answer(engine, "r"))
    assert len(tokens_of(events)) == 8
    assert [event.finish_reason for event in events] == [None] * 7 + [FinishReason.LENGTH]
    assert (events[-1].prompt_tokens, events[-1].completion_tokens) == (3, 8)
    assert tokens_of(await soon(answer(engine, "again"))) == tokens_of(events)


async def test_many_at_once(start: Start, plan_on_cpu: PlanOnCpu, tmp_path: Path) -> None:
    engine = start(plan_on_cpu(write_f32(tmp_path / "f32.gguf"), parallel=2, **EXACT))
    await soon(engine.ready())
    prompts = [(1, 40 + i, 90 - i) for i in range(12)]
    alone = [tokens_of(await soon(answer(engine, f"a{i}", prompt=p))) for i, p in enumerate(prompts)]
    together = await soon(asyncio.gather(*(answer(engine, f"t{i}", prompt=p) for i, p in enumerate(prompts))))
    assert len({tuple(tokens) for tokens in alone}) == 12
    assert [tokens_of(answer) for answer in together] == alone


async def test_refusals_are_errors_of_the_request_alone(engine: EngineClient) -> None:
    stream = await begun(engine, "other")
    with pytest.raises(
        ContextExceeded, match="the prompt has 40,000 tokens and the context holds 32,768"
    ) as longer:
        await soon(answer(engine, "long", prompt=(5,) * 40_000))
    assert (longer.value.n_prompt_tokens, longer.value.n_ctx) == (40_000, 32_768)
    with pytest.raises(RequestError, match="token id 320 is outside the vocabulary") as refusal:
        await soon(answer(engine, "odd", prompt=(320,)))
    assert refusal.value.param == "prompt"
    assert (await soon(anext(stream))).token_ids
    await stream.aclose()


def check_none_ran_on(engine: EngineClient) -> None:
    """A stream that is not cancelled fills the context, and others wait for its end."""
    assert engine.stats.n_generated_tokens < 0.9 * engine.stats.n_cells


async def test_a_stream_closed_early_frees_its_slot(engine: EngineClient) -> None:
    for _ in range(2):
        streams = [await begun(engine, f"long{i}") for i in range(2)]
        for stream in streams:
            await stream.aclose()
    answers = await soon(asyncio.gather(*(answer(engine, f"r{i}") for i in range(2))))
    assert [len(tokens_of(answer)) for answer in answers] == [8, 8]
    check_none_ran_on(engine)


async def test_a_cancelled_task_frees_its_slot(engine: EngineClient) -> None:
    begun = asyncio.Semaphore(0)

    async def consume(name: str) -> None:
        async with aclosing(engine.generate(request(name, max_tokens=None))) as stream:
            async for _ in stream:
                begun.release()

    tasks = [asyncio.create_task(consume(f"long{i}")) for i in range(6)]  # two run, four wait
    for _ in range(4):
        await soon(begun.acquire())
    for task in tasks:
        task.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError)
        for end in await asyncio.gather(*tasks, return_exceptions=True)
    )
    answers = await soon(asyncio.gather(*(answer(engine, f"r{i}") for i in range(2))))
    assert [len(tokens_of(answer)) for answer in answers] == [8, 8]
    check_none_ran_on(engine)


async def test_a_full_queue_refuses_requests(
    start: Start, plan_on_cpu: PlanOnCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_WAITING", 5)
    engine = start(plan_on_cpu(n_ctx=16384, parallel=1))
    await soon(engine.ready())
    first = await begun(engine, "first")
    queued = [asyncio.create_task(answer(engine, f"q{i}")) for i in range(5)]
    await asyncio.sleep(0)  # each task submits at its first turn
    with pytest.raises(Overloaded, match="6 requests are in flight and 6 is the most") as refusal:
        await answer(engine, "one too many")
    assert (refusal.value.retry_after_s or 0) > 0
    await first.aclose()
    answers = await soon(asyncio.gather(*queued))
    assert all(len(tokens_of(answer)) == 8 for answer in answers)
    assert len(tokens_of(await soon(answer(engine, "later")))) == 8


async def test_a_full_queue_takes_more_from_others(
    start: Start, plan_on_cpu: PlanOnCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_WAITING", 5)
    engine = start(plan_on_cpu(n_ctx=16384, parallel=1))
    await soon(engine.ready())
    first = await begun(engine, "first", client="a")
    queued = [asyncio.create_task(answer(engine, f"a{i}", client="a")) for i in range(5)]
    await asyncio.sleep(0)  # each task submits at its first turn
    others = [asyncio.create_task(answer(engine, f"b{i}", client="b")) for i in range(3)]
    await asyncio.sleep(0)  # the same
    for name in ("a", "b"):
        with pytest.raises(Overloaded, match="9 requests are in flight and 6 is the most"):
            await answer(engine, "one too many", client=name)
    await first.aclose()
    assert all(len(tokens_of(answer)) == 8 for answer in await soon(asyncio.gather(*queued, *others)))


async def test_questions_about_the_vocabulary_take_no_place_of_a_request(
    engine: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_QUESTIONS", 3)
    monkeypatch.setattr(client, "MAX_WAITING", -1)  # room for one request
    asking = [
        asyncio.create_task(engine.tokenize("a", add_special=False, parse_special=False)) for _ in range(3)
    ]
    await asyncio.sleep(0)  # each task asks at its first turn
    with pytest.raises(Overloaded, match="3 texts and slots wait for the engine"):
        await engine.pieces([1])
    assert len(tokens_of(await soon(answer(engine, "one")))) == 8
    assert all(await soon(asyncio.gather(*asking)))
    assert await soon(engine.pieces([1]))


async def test_images_of_too_many_bytes_in_flight_are_refused(
    engine: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_IMAGES_BYTES", 10)
    images = (Image(0, b"123456", "image"),)
    first = asyncio.create_task(answer(engine, "first", prompt="a", images=images))
    await asyncio.sleep(0)  # it submits at its first turn
    with pytest.raises(
        Overloaded, match="of 6 bytes are in flight, these have 6 and 10 is the most"
    ) as refusal:
        await answer(engine, "second", prompt="a", images=images)
    assert (refusal.value.retry_after_s or 0) >= 1
    with pytest.raises(Overloaded):
        await engine.tokenize("a", add_special=True, parse_special=True, images=images)
    with pytest.raises(Overloaded):
        await engine.embed(EmbeddingRequest(id="third", inputs=("a",), images=(images,)))
    with pytest.raises(RequestError, match="takes no images"):
        await soon(first)
    with pytest.raises(RequestError, match="takes no images"):
        await soon(answer(engine, "third", prompt="a", images=images))


async def test_clients_that_disconnect_free_their_slots(engine: EngineClient) -> None:
    """A hundred times over two slots."""
    for i in range(50):
        streams = [await begun(engine, f"{i}-{k}") for k in range(2)]
        for stream in streams:
            await stream.aclose()
    assert len(tokens_of(await soon(answer(engine, "last")))) == 8
    assert (engine.stats.n_running, engine.stats.n_waiting) == (0, 0)
    assert engine.stats.n_generated_tokens >= 108
    check_none_ran_on(engine)


async def test_stats_come_with_cancels(engine: EngineClient) -> None:
    stream = await begun(engine, "only")
    assert engine.stats.n_running == 1
    await stream.aclose()
    await until(lambda: engine.stats.n_running == 0, "counted as gone")


async def test_stats_come_with_events(engine: EngineClient) -> None:
    before = engine.stats
    await soon(answer(engine, "a", max_tokens=20))
    after = engine.stats
    assert (before.n_steps, after.n_steps) == (0, 20)
    assert (after.n_generated_tokens, after.n_prompt_tokens, after.n_cells) == (20, 3, 32768)
    assert after.llama_s > 0
    assert after.sampling_s > 0
    assert after.host_s > 0


# -- tokens --------------------------------------------------------------------------------------


async def test_tokens_of_a_text_and_back_while_a_stream_runs(engine: EngineClient) -> None:
    stream = await begun(engine, "a")
    tokens = await soon(engine.tokenize("héllo</s>", add_special=True, parse_special=True))
    assert (tokens[0], tokens[-1]) == (1, 2)
    assert b"".join(await soon(engine.pieces(tokens))).decode() == "<s>▁héllo</s>"
    assert 2 not in await soon(engine.tokenize("</s>", add_special=False, parse_special=False))
    assert (await soon(anext(stream))).token_ids
    await stream.aclose()


async def test_marks_are_part_of_the_text(engine: EngineClient) -> None:
    always_bos = SamplingParams(temperature=0, logit_bias={1: 100.0})
    for marks, text in (((), ""), (("<s>",), "<s><s>")):
        events = await soon(answer(engine, "a", sampling=always_bos, max_tokens=2, marks=marks))
        assert "".join(event.text for event in events) == text


async def test_the_stop_string_is_reported(engine: EngineClient) -> None:
    always_a = SamplingParams(temperature=0, logit_bias={100: 100.0})
    events = await soon(answer(engine, "a", sampling=always_a))
    letter = events[0].text
    for stop, told in (((), None), (("no", letter * 2), letter * 2)):
        events = await soon(answer(engine, "b", sampling=always_a, stop=stop))
        assert events[-1].stop == told
