"""POST /completion: llama-server's fields in and out, over a fake engine."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine, says
from vram_llm.engine.request import (
    FinishReason,
    Likelihood,
    Request,
    SamplingParams,
    TokenCandidate,
    TokenEvent,
)


async def answer(client: httpx.AsyncClient, **fields: Any) -> Any:
    """The reply to a request that is accepted."""
    response = await client.post("/completion", json={"prompt": "Hi", **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def chunks(client: httpx.AsyncClient, **fields: Any) -> list[Any]:
    """The objects of a stream, which has nothing else."""
    response = await client.post("/completion", json={"prompt": "Hi", "stream": True, **fields})
    *lines, rest = response.text.split("\n\n")
    assert rest == ""
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_the_object(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = await answer(client, n_predict=2, seed=7, temperature=0.5, stop=["x"])
    assert reply.pop("timings")["predicted_n"] == 2
    settings = reply.pop("generation_settings")
    assert reply == {
        "index": 0, "content": "Hello world", "tokens": [], "id_slot": -1, "stop": True, "model": "tiny",
        "tokens_predicted": 2, "tokens_evaluated": 5, "prompt": "", "has_new_line": False,
        "truncated": False, "stop_type": "eos", "stopping_word": "", "tokens_cached": 6,
    }  # fmt: skip
    wanted = {"seed": 7, "temperature": 0.5, "n_predict": 2, "max_tokens": 2, "stop": ["x"], "top_k": 40}
    assert settings.items() >= wanted.items()
    assert settings["samplers"][0] == "penalties"
    (request,) = engine.requests
    assert (request.max_tokens, request.stop, request.returns_prompt) == (2, ("x",), True)


@pytest.mark.parametrize("n_predict", [-1, -2, None])
async def test_no_limit(client: httpx.AsyncClient, engine: FakeEngine, n_predict: int | None) -> None:
    assert (await answer(client, n_predict=n_predict))["generation_settings"]["n_predict"] == -1
    assert engine.requests[0].max_tokens is None


@pytest.mark.parametrize(
    ("reason", "stop", "stop_type"),
    [
        (FinishReason.STOP, None, "eos"),
        (FinishReason.STOP, "###", "word"),
        (FinishReason.LENGTH, None, "limit"),
    ],
)
async def test_endings(
    client: httpx.AsyncClient, engine: FakeEngine, reason: FinishReason, stop: str | None, stop_type: str
) -> None:
    def script(request: Request) -> list[TokenEvent]:
        return [
            TokenEvent(
                id=request.id,
                text="a\n",
                token_ids=(4,),
                prompt_tokens=511,
                completion_tokens=1,
                finish_reason=reason,
                stop=stop,
                prompt="<s> Hi",
            )
        ]

    engine.script = script
    reply = await answer(client)
    assert (reply["stop_type"], reply["stopping_word"]) == (stop_type, stop or "")
    assert reply["truncated"] is (reason is FinishReason.LENGTH)  # the context of 512 is full
    assert (reply["has_new_line"], reply["prompt"]) == (True, "<s> Hi")


async def test_a_stream(client: httpx.AsyncClient) -> None:
    *parts, last = await chunks(client, n_predict=9)
    common = {"index": 0, "stop": False, "id_slot": -1, "tokens_evaluated": 5}
    assert parts == [
        {"content": "Hello", "tokens": [0], "tokens_predicted": 1, **common},
        {"content": " world", "tokens": [1], "tokens_predicted": 2, **common},
    ]
    assert (last["content"], last["tokens"], last["stop"]) == ("", [], True)
    assert last["timings"]["predicted_n"] == 2
    assert last["generation_settings"]["stream"] is True


async def test_timings_and_progress(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    def script(request: Request) -> list[TokenEvent]:
        progress = TokenEvent(id=request.id, prompt_tokens=5, prompt_done=3)
        return [progress, *says("Hi")(request)]  # type: ignore[list-item]  # events all

    engine.script = script
    first, *others = await chunks(client, timings_per_token=True, return_progress=True)
    assert first["prompt_progress"] == {
        "total": 5, "cache": 0, "processed": 0, "time_ms": first["prompt_progress"]["time_ms"],
    }  # fmt: skip
    assert [chunk["prompt_progress"]["processed"] for chunk in others if "prompt_progress" in chunk] == [3, 5]
    assert all("timings" in chunk for chunk in others)


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("text", ["text"]),
        ([4, 5], [(4, 5)]),
        ([4, "ab", 5], [(4, 97, 98, 5)]),
        (["a", 4], [(1, 97, 4)]),
        (["a", "b"], ["a", "b"]),
        ([[4, 5], "b", [6, "c"]], [(4, 5), "b", (6, 99)]),
        ({"prompt_string": "a"}, ["a"]),
        ([{"prompt_string": [7, "a"]}, "b"], [(7, 97), "b"]),
        ([["a"]], [(1, 97)]),
    ],
)
async def test_shapes_of_prompts(
    client: httpx.AsyncClient, engine: FakeEngine, prompt: object, read: Sequence[object]
) -> None:
    reply = await answer(client, prompt=prompt)
    assert [request.prompt for request in engine.requests] == read
    if len(read) > 1:
        assert [each["index"] for each in reply] == list(range(len(read)))
    else:
        assert reply["content"] == "Hello world"


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (5, "prompt"),
        ([], "prompt"),
        ([[]], "prompt[0]"),
        ([100], "prompt"),
        ([4, -1], "prompt"),
        ([4, "a", 2.5], "prompt"),
        ({}, "prompt"),
        ({"prompt_string": 4}, "prompt.prompt_string"),
        ({"prompt_string": "a", "other": 1}, "prompt.other"),
        ({"prompt_string": "<__media__>", "multimodal_data": ["QQ=="]}, "prompt.multimodal_data[0]"),
        ({"prompt_string": "<__media__>", "multimodal_data": "QQ=="}, "prompt.multimodal_data"),
        (list(range(50)) * 11, "prompt"),
        ([1, *["a"] * 300], "prompt"),
        ([[1, "a"]] * 129, "prompt"),
    ],
)
async def test_prompts_refused(client: httpx.AsyncClient, prompt: object, param: str) -> None:
    response = await client.post("/completion", json={"prompt": prompt})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_choices(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = await answer(client, prompt=["a", "b"], n_cmpl=2, seed=3)
    assert [each["index"] for each in reply] == [0, 1, 2, 3]
    assert [request.prompt for request in engine.requests] == ["a", "a", "b", "b"]
    assert [request.sampling.seed for request in engine.requests] == [3, 4, 3, 4]


async def test_response_fields(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    wanted = ["content", "generation_settings/n_predict", "nothing", "content/x"]
    reply = await answer(client, n_predict=4, response_fields=wanted)
    assert reply == {"content": "Hello world", "generation_settings/n_predict": 4}
    assert not engine.requests[0].returns_prompt
    assert "tokens" in await answer(client, response_fields=[])


async def test_tokens(client: httpx.AsyncClient) -> None:
    assert (await answer(client, return_tokens=True))["tokens"] == [0, 1]


def likely(request: Request) -> list[TokenEvent]:
    """An answer of two tokens in one event, with candidates."""
    other = TokenCandidate(9, b"?", math.log(0.25))
    likelihoods = tuple(
        Likelihood(TokenCandidate(i, piece, math.log(0.75)), (other,))
        for i, piece in ((5, b"a"), (6, b"\xc3"))
    )
    return [
        TokenEvent(
            id=request.id,
            text="a\xe9",
            token_ids=(5, 6),
            logprobs=likelihoods,
            prompt_tokens=1,
            completion_tokens=2,
            finish_reason=FinishReason.LENGTH,
        )
    ]


@pytest.mark.parametrize(
    ("post", "number", "top"), [(False, "logprob", "top_logprobs"), (True, "prob", "top_probs")]
)
async def test_probabilities(
    client: httpx.AsyncClient, engine: FakeEngine, post: bool, number: str, top: str
) -> None:
    engine.script = likely
    reply = await answer(client, n_probs=1, post_sampling_probs=post)
    first, second = reply["completion_probabilities"]
    assert (first["id"], first["token"], first["bytes"]) == (5, "a", [97])
    assert (second["token"], second["bytes"]) == ("\ufffd", [0xC3])
    assert first[number] == pytest.approx(0.75 if post else math.log(0.75))
    assert first[top][0][number] == pytest.approx(0.25 if post else math.log(0.25))
    assert (engine.requests[0].logprobs, engine.requests[0].post_sampling) == (1, post)
    one, two, last = await chunks(client, n_probs=1, post_sampling_probs=post)
    assert one["completion_probabilities"] == [first]
    assert [one["content"], two["content"]] == ["", "a\xe9"]
    assert (two["tokens"], two["completion_probabilities"]) == ([6], [second])
    assert "completion_probabilities" not in last


async def test_ignored_ends_are_never_sampled(engine: FakeEngine, connect: Connect) -> None:
    engine.info = replace(INFO, ends=(2, 5))
    reply = await answer(connect(), ignore_eos=True, logit_bias=[[3, 1.5]])
    biases = [{"bias": 1.5, "token": 3}, {"bias": None, "token": 2}, {"bias": None, "token": 5}]
    assert reply["generation_settings"]["logit_bias"] == biases
    assert engine.requests[0].sampling.logit_bias == {3: 1.5, 2: -math.inf, 5: -math.inf}
    assert (await answer(connect()))["generation_settings"]["logit_bias"] == []


async def test_fields_for_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await answer(
        client,
        n_indent=4,
        t_max_predict_ms=250,
        t_max_prompt_ms=500,
        id_slot=3,
        cache_prompt=False,
        n_keep=5,
        n_discard=7,
        samplers=["temperature", "top_k"],
        temperature=2.0,
        top_k=9,
        logit_bias={"A": False},
        json_schema={"type": "object"},
    )
    (request,) = engine.requests
    assert (request.n_indent, request.line_time_s) == (4, 0.25)
    assert request.sampling == SamplingParams(
        temperature=2.0, top_k=9, top_p=1.0, samplers=("temperature", "top_k"), logit_bias={65: -math.inf}
    )
    assert request.grammar is not None
    assert request.namespace != 0


async def test_choices_share_a_prompt_that_no_other_request_does(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await answer(client, cache_prompt=False, n_cmpl=2)
    await answer(client, cache_prompt=False)
    await answer(client, cache_prompt=True)
    one, same, other, usual = (request.namespace for request in engine.requests)
    assert one == same != other
    assert usual == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"n_predict": -3},
        {"n_indent": -1},
        {"t_max_predict_ms": -2},
        {"n_probs": 129},
        {"n_predict": 4, "max_tokens": 5},
        {"response_fields": "content"},
        {"grammar": "root ::= x", "json_schema": {}},
        {"n_cmpl": 0},
        {"unheard_of": 1},
    ],
)
async def test_fields_refused(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    response = await client.post("/completion", json={"prompt": "Hi", **fields})
    assert response.status_code == 400, response.text


async def test_a_failure_within_a_stream(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    def script(request: Request) -> list[TokenEvent]:
        first = says("Hi")(request)[:1]
        return [*first, TokenEvent(id=request.id, finish_reason=FinishReason.ERROR, error="no")]  # type: ignore[list-item]  # events all

    engine.script = script
    first, last = await chunks(client)
    assert first["content"] == "Hi"
    assert last["error"]["message"] == "no"


@pytest.mark.parametrize(("images", "status"), [([], 200), ([{"data": "eA==", "id": 1}], 400)])
async def test_the_image_field_of_older_servers_may_be_empty(
    client: httpx.AsyncClient, images: list[Any], status: int
) -> None:
    reply = await client.post("/completion", json={"prompt": "Hi", "image_data": images})
    assert reply.status_code == status
