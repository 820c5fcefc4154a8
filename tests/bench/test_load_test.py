"""Loads on a server without latencies: counts, bounds, prompts of exact lengths, and what goes wrong."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.timed_server import TimedServer
from vram_llm.bench.arrivals import LoadShape
from vram_llm.bench.file_prompts import PromptFile
from vram_llm.bench.load_test import LoadResult, LoadTest, LoadWatch, run_test
from vram_llm.bench.random_prompts import RandomPrompts
from vram_llm.bench.stream_client import StreamClient
from vram_llm.errors import BadPromptFile, RequestError, ServerUnreachable

FEW = LoadTest(dataset=RandomPrompts(input_tokens=12, output_tokens=5), n_prompts=6, model="timed")
CHAT = "/v1/chat/completions"


@asynccontextmanager
async def listening(server: TimedServer) -> AsyncIterator[StreamClient]:
    """A client of the server."""
    async with await server.listen() as sockets:
        client = StreamClient(f"http://127.0.0.1:{sockets.sockets[0].getsockname()[1]}", {})
        try:
            yield client
        finally:
            client.close()


async def measured(server: TimedServer, test: LoadTest = FEW) -> tuple[LoadResult, list[str]]:
    """The result of a test, and its notes. The requests that tried the server are forgotten."""
    notes: list[str] = []

    def on_stage(stage: str, _n: int) -> None:
        if stage == "requests":
            server.requests.clear()

    async with listening(server) as client:
        return await run_test(client, test, LoadWatch(on_stage, on_note=notes.append)), notes


@pytest.mark.parametrize("path", ["/v1/completions", CHAT])
async def test_exact_lengths_by_the_servers_tokenizer(path: str) -> None:
    server = TimedServer(n_added=3)
    result, notes = await measured(server, replace(FEW, path=path, n_warmups=2))
    assert [outcome.prompt_tokens for outcome in result.run.outcomes] == [12] * 6
    assert [outcome.n_output for outcome in result.run.outcomes] == [5] * 6
    assert [len(outcome.token_times) for outcome in result.run.outcomes] == [5] * 6
    assert (result.metrics.total_input_tokens, result.metrics.total_output_tokens) == (72, 30)
    assert not notes
    prompts = {json.dumps(each.get("prompt") or each["messages"]) for each in server.requests}
    assert len(server.requests) == len(prompts) == 6


async def test_spread_lengths_with_a_prefix() -> None:
    dataset = RandomPrompts(input_tokens=20, output_tokens=4, range_ratio=0.5, prefix_tokens=7)
    server = TimedServer()
    result, notes = await measured(server, replace(FEW, dataset=dataset, n_prompts=30))
    lengths = [outcome.prompt_tokens - 7 for outcome in result.run.outcomes]
    assert min(lengths) >= 10
    assert max(lengths) <= 30
    assert len(set(lengths)) > 5
    assert {outcome.n_output for outcome in result.run.outcomes} == {2, 3, 4, 5, 6}
    assert not notes
    beginnings = {" ".join(each["prompt"].split()[:6]) for each in server.requests}  # and one token in front
    assert len(beginnings) == 1


async def test_prefixes_in_turn() -> None:
    dataset = RandomPrompts(input_tokens=5, output_tokens=1, prefix_tokens=6, n_prefixes=3)
    server = TimedServer(n_added=0)
    await measured(server, replace(FEW, dataset=dataset, shape=LoadShape(max_concurrency=1)))
    beginnings = [" ".join(each["prompt"].split()[:6]) for each in server.requests]
    assert beginnings[:3] == beginnings[3:]
    assert len(set(beginnings)) == 3


async def test_token_ids_without_a_tokenizer() -> None:
    server = TimedServer(has_tokenizer=False)
    result, notes = await measured(server)
    assert [outcome.prompt_tokens for outcome in result.run.outcomes] == [12] * 6
    assert all(len(each["prompt"]) == 12 for each in server.requests)
    assert not notes


async def test_lengths_are_estimated_without_both() -> None:
    result, notes = await measured(TimedServer(has_tokenizer=False, takes_ids=False))
    assert [outcome.prompt_tokens for outcome in result.run.outcomes] == [
        13
    ] * 6  # 12 words and the first token
    assert len(notes) == 1
    assert "estimated by 1.00 tokens a word" in notes[0]


async def test_the_same_prompts_for_the_same_seed() -> None:
    server, again, other = TimedServer(), TimedServer(), TimedServer()
    for each, test in ((server, FEW), (again, replace(FEW, n_warmups=3)), (other, replace(FEW, seed=1))):
        await measured(each, replace(test, shape=LoadShape(max_concurrency=1)))
    assert server.requests == again.requests
    assert server.requests != other.requests


async def test_no_more_at_a_time_than_the_bound() -> None:
    shape = LoadShape(max_concurrency=2)
    result, _ = await measured(TimedServer(), replace(FEW, shape=shape, n_prompts=20))
    assert result.metrics.peak_concurrent_requests == 2
    assert result.run.outcomes[-1].queue_s > 0


async def test_requests_wait_until_they_are_due() -> None:
    shape = LoadShape(request_rate=200.0, burstiness=math.inf)
    result, _ = await measured(TimedServer(), replace(FEW, shape=shape))
    assert result.run.duration_s >= 6 / 200.0 - 0.002  # loops count whole milliseconds


async def test_ignore_eos_is_left_out_where_it_is_refused() -> None:
    server = TimedServer(takes_ignore_eos=False)
    result, notes = await measured(server, replace(FEW, ignore_eos=True))
    assert result.metrics.completed == 6
    assert "refuses ignore_eos" in notes[0]


async def test_a_model_that_ends_at_once() -> None:
    """A trial without a token is no reason to refuse the load."""
    test = replace(FEW, dataset=RandomPrompts(input_tokens=12, output_tokens=5), n_prompts=2)
    result, _ = await measured(TimedServer(n_trial=0), test)
    assert result.metrics.completed == 2


async def test_fields_of_requests() -> None:
    server = TimedServer()
    await measured(server, replace(FEW, ignore_eos=True, extra={"temperature": 0}))
    assert {key: value for key, value in server.requests[0].items() if key != "prompt"} == {
        "model": "timed", "max_tokens": 5, "stream": True, "stream_options": {"include_usage": True},
        "ignore_eos": True, "temperature": 0,
    }  # fmt: skip


async def test_a_server_that_closes_connections() -> None:
    server = TimedServer(lose_after=3)
    result, _ = await measured(server)
    assert (result.metrics.completed, result.metrics.failed) == (0, 6)
    assert {outcome.error for outcome in result.run.outcomes} == {
        "the server closed the connection before the end of the answer"
    }


async def test_an_interrupted_load_keeps_what_was_measured() -> None:
    server = TimedServer(itl_s=1e-3)
    enough = asyncio.Event()
    n_done = 0

    def on_done(_: object) -> None:
        nonlocal n_done
        n_done += 1
        if n_done == 4:
            enough.set()

    test = replace(FEW, n_prompts=1000, shape=LoadShape(max_concurrency=2))
    async with listening(server) as client:
        task = asyncio.create_task(run_test(client, test, LoadWatch(on_done=on_done)))
        await enough.wait()
        task.cancel()
        result = await task
    assert result.run.was_interrupted
    assert 4 <= result.metrics.completed < 1000
    assert result.metrics.failed == 0


@pytest.mark.parametrize(
    ("server", "changes", "error", "words"),
    [
        (TimedServer(key="k"), {"model": None}, RequestError, "--api-key @FILE"),
        (TimedServer(key="k"), {}, RequestError, "Incorrect API key provided; give its API key"),
        (TimedServer(), {"model": "gpt"}, RequestError, "has no model 'gpt'; --model timed is there"),
        (TimedServer(), {"path": "/v2/completions"}, RequestError, "has no /v2/completions; --endpoint"),
        (TimedServer(n_added=12), {}, RequestError, "more than 12 with --random-input-len"),
        (TimedServer(lose_after=0), {}, ServerUnreachable, "closed the connection"),
    ],
)
async def test_errors_say_what_to_do(
    server: TimedServer, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await measured(server, replace(FEW, **changes))


async def test_a_path_in_front_of_the_servers_own() -> None:
    server = TimedServer(prefix="/api")
    async with await server.listen() as sockets:
        client = StreamClient(f"http://127.0.0.1:{sockets.sockets[0].getsockname()[1]}/api/", {})
        result = await run_test(client, replace(FEW, model=None), LoadWatch())
        client.close()
    assert result.metrics.total_input_tokens == 72


async def test_nobody_listens() -> None:
    async with listening(TimedServer()) as client:
        pass
    with pytest.raises(ServerUnreachable, match=r"no server answers at http://127.0.0.1:\d+: "):
        await run_test(client, FEW, LoadWatch())


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


async def test_prompts_of_lines(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "one two three"}]
    path = written(tmp_path / "p.jsonl", {"prompt": "a b"}, {"prompt": "c", "output_tokens": 3})
    server, order = TimedServer(), LoadShape(max_concurrency=1)
    test = replace(FEW, n_prompts=3, shape=order, dataset=PromptFile(path=path, shuffled=False))
    result, _ = await measured(server, test)
    assert [each["prompt"] for each in server.requests] == ["a b", "c", "a b"]
    assert [outcome.n_output for outcome in result.run.outcomes] == [256, 3, 256]
    assert [outcome.prompt_tokens for outcome in result.run.outcomes] == [3, 2, 3]
    file = PromptFile(path=written(tmp_path / "m.jsonl", {"messages": chat}), output_tokens=2)
    await measured(server, replace(test, path=CHAT, dataset=file))
    assert [each["messages"] for each in server.requests] == [chat] * 3


async def test_conversations_of_sharegpt(tmp_path: Path) -> None:
    def talk(n_question: int, n_answer: int) -> dict[str, Any]:
        words = ({"from": who, "value": "word " * n} for who, n in (("human", n_question), ("gpt", n_answer)))
        return {"id": "1", "conversations": [*words]}

    path = tmp_path / "s.json"
    bad = [{"conversations": []}, {}, talk(3, 9), talk(9, 3), talk(1025, 9), talk(1000, 1049)]
    path.write_text(json.dumps([*bad, talk(8, 6), talk(5, 7)]))
    test = replace(FEW, n_prompts=4, dataset=PromptFile(path=path, is_sharegpt=True))
    result, _ = await measured(TimedServer(), test)
    lengths = {(outcome.prompt_tokens - 1, outcome.n_output) for outcome in result.run.outcomes}
    assert lengths == {(8, 6), (5, 7)}


@pytest.mark.parametrize(
    ("text", "is_sharegpt", "words"),
    [
        (None, False, "cannot be read: No such file"),
        ("", False, "has no prompt that can be used"),
        ('{"prompt": "a"}\n{"text": "b"}', False, "line 2 of .* has no prompt; each line is"),
        ("a b", False, "line 1 of .* is not JSON"),
        ('{"prompt": "a", "output_tokens": 0}', False, "output_tokens is 0"),
        ('{"prompt": "a"}', True, "is no list of conversations"),
        ("[]", True, "has no prompt that can be used"),
    ],
)
async def test_files_that_cannot_be_used(
    tmp_path: Path, text: str | None, is_sharegpt: bool, words: str
) -> None:
    path = tmp_path / "prompts"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadPromptFile, match=words):
        await measured(TimedServer(), replace(FEW, dataset=PromptFile(path=path, is_sharegpt=is_sharegpt)))
