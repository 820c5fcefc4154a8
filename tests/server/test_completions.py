"""POST /v1/completions, over the ASGI interface."""

from typing import Any

import httpx
import pytest

from tests.server.fake_engine import FakeEngine, Step, says
from tests.server.test_chat import lines
from vram_llm.engine.request import FinishReason, Likelihood, Request, TokenCandidate, TokenEvent


async def ask(client: httpx.AsyncClient, prompt: Any = "Once", **fields: Any) -> httpx.Response:
    return await client.post("/v1/completions", json={"prompt": prompt, **fields})


async def test_reply(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = (await ask(client)).json()
    assert reply["object"] == "text_completion"
    assert reply["id"].startswith("cmpl-")
    assert reply["choices"] == [
        {"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "stop"}
    ]
    request = engine.requests[0]
    assert (request.prompt, request.add_bos, request.max_tokens) == ("Once", True, 16)


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1], [2, 99]], [(1,), (2, 99)]),
    ],
)
async def test_shapes_of_a_prompt(
    client: httpx.AsyncClient, engine: FakeEngine, prompt: Any, seen: list[Any]
) -> None:
    assert (await ask(client, prompt)).status_code == 200
    assert [r.prompt for r in engine.requests] == seen


@pytest.mark.parametrize(
    "prompt", [None, 3, [], [[]], [1, "a"], ["a", 1], [[1], 2], [True], [100], [[-1]], {}]
)
async def test_bad_prompt(client: httpx.AsyncClient, engine: FakeEngine, prompt: Any) -> None:
    response = await ask(client, prompt)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"
    assert engine.requests == []


async def test_choices_of_several_prompts(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = lambda request: says(f"<{request.prompt}{request.sampling.seed}>")(request)
    reply = (await ask(client, ["a", "b"], n=2, seed=1)).json()
    assert [c["text"] for c in reply["choices"]] == ["<a1>", "<a2>", "<b1>", "<b2>"]
    assert reply["usage"]["prompt_tokens"] == 10
    assert reply["usage"]["completion_tokens"] == 4


async def test_suffix(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert (await ask(client, suffix="end")).status_code == 200
    assert (await ask(client, suffix="")).status_code == 200
    assert [request.suffix for request in engine.requests] == ["end", None]


async def test_the_best_of_several(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    logprobs = {
        "a-0": (-1.0,),
        "a-1": (-3.0, -0.2),
        "a-2": (),
        "b-0": (-2.0,),
        "b-1": (-0.5, -0.7),
        "b-2": (-9.0,),
    }

    def script(request: Request) -> list[Step]:
        name = f"{request.prompt}-{(request.sampling.seed or 0) - 7}"
        likely = tuple(Likelihood(TokenCandidate(5, b"x", logprob)) for logprob in logprobs[name])
        return [
            TokenEvent(
                id=request.id, text=name, logprobs=likely, prompt_tokens=5, completion_tokens=2,
                finish_reason=FinishReason.STOP,
            )
        ]  # fmt: skip

    engine.script = script
    reply = (await ask(client, ["a", "b"], best_of=3, n=2, seed=7)).json()
    assert [choice["text"] for choice in reply["choices"]] == ["a-0", "a-1", "b-1", "b-0"]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert reply["choices"][0]["logprobs"] is None
    assert (reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]) == (10, 12)
    assert {request.logprobs for request in engine.requests} == {0}
    assert len((await ask(client, ["a"], best_of=2, n=2, seed=7)).json()["choices"]) == 2
    assert engine.requests[-1].logprobs is None


@pytest.mark.parametrize("stream", [False, True])
async def test_echo(client: httpx.AsyncClient, stream: bool) -> None:
    response = await ask(client, ["a: ", "b: "], echo=True, stream=stream)
    if not stream:
        assert [c["text"] for c in response.json()["choices"]] == ["a: Hello world", "b: Hello world"]
        return
    texts = ["", ""]
    for chunk in lines(response)[:-1]:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == ["a: Hello world", "b: Hello world"]


async def test_stream(client: httpx.AsyncClient) -> None:
    *chunks, done = lines(await ask(client, stream=True))
    assert done == "[DONE]"
    assert [c["choices"][0]["text"] for c in chunks] == ["Hello", " world", ""]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end", "echo": True}, "echo"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 129}, "best_of"),
        ({"best_of": 64, "prompt": ["a"] * 3}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"prompt": [1], "echo": True}, "echo"),
        ({"prompt": ["a"] * 65, "n": 2}, "n"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"messages": []}, "messages"),
    ],
)
async def test_refused(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await ask(client, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(("prompt", "shown"), [("hi", "<s>hi"), ([72, 73], "HI"), (["hi", "you"], "<s>hi")])
async def test_verbose_shows_the_first_prompt(client: httpx.AsyncClient, prompt: Any, shown: str) -> None:
    body = {"prompt": prompt, "verbose": True}
    reply = (await client.post("/v1/completions", json=body)).json()
    assert reply["__verbose"] == {"prompt": shown}
    streamed = await client.post("/v1/completions", json={**body, "stream": True})
    assert streamed.text.count(f'"__verbose":{{"prompt":"{shown}"}}') == 1
    assert "__verbose" not in (await client.post("/v1/completions", json={"prompt": prompt})).text
