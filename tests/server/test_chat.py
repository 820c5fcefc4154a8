"""POST /v1/chat/completions, over the ASGI interface."""

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine, Script, fails, says
from vram_llm.engine.request import FinishReason, SamplingParams
from vram_llm.errors import ContextExceeded, EngineDied, Overloaded, RequestError, WorkerUnreachable

HI = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


async def ask(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={**HI, **fields})


def lines(response: httpx.Response) -> list[Any]:
    """The data lines of a stream, parsed; the last one is "[DONE]" if the stream is complete."""
    assert response.headers["content-type"].startswith("text/event-stream")
    frames = response.text.split("\n\n")
    assert frames.pop() == ""
    assert all(frame.startswith("data: ") for frame in frames)
    return ["[DONE]" if frame[6:] == "[DONE]" else json.loads(frame[6:]) for frame in frames]


async def test_reply(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = (await ask(client, model="tiny")).json()
    assert reply.pop("id").startswith("chatcmpl-")
    assert reply.pop("system_fingerprint").startswith("b")
    assert reply.pop("timings")["predicted_n"] == 2
    assert reply == {
        "object": "chat.completion",
        "created": 1234,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello world",
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
    assert engine.requests[0].prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert engine.requests[0].sampling == SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
    assert engine.requests[0].max_tokens is None


async def test_stream(client: httpx.AsyncClient) -> None:
    *chunks, done = lines(await ask(client, stream=True))
    assert done == "[DONE]"
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert len({c["id"] for c in chunks}) == 1
    assert [c["choices"][0]["delta"] for c in chunks] == [
        {"role": "assistant", "content": None, "refusal": None},
        {"content": "Hello"},
        {"content": " world"},
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, None, "stop"]
    assert all("usage" not in c for c in chunks)


async def test_verbose_shows_the_prompt(client: httpx.AsyncClient) -> None:
    """In the answer, or in a stream's first chunk; with special tokens, as the engine reads it."""
    prompt = "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert (await ask(client, verbose=True)).json()["__verbose"] == {"prompt": prompt}
    first, *chunks, _ = lines(await ask(client, verbose=True, stream=True))
    assert first["__verbose"] == {"prompt": prompt}
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert not any("__verbose" in chunk for chunk in chunks)
    assert "__verbose" not in (await ask(client, verbose=False)).json()


async def test_a_server_may_be_verbose_by_default(connect: Connect) -> None:
    client = connect(verbose=True)
    assert "__verbose" in (await ask(client)).json()
    assert "__verbose" not in (await ask(client, verbose=False)).json()


async def test_stream_with_usage(client: httpx.AsyncClient) -> None:
    *chunks, last, done = lines(await ask(client, stream=True, stream_options={"include_usage": True}))
    assert done == "[DONE]"
    assert all(c["usage"] is None for c in chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 7


async def test_text_that_json_and_sse_must_escape(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    text = 'a "quote"\n\ndata: x\\ é 😀 \u2028'
    engine.script = says(text)
    chunks = lines(await ask(client, stream=True))
    assert chunks[1]["choices"][0]["delta"]["content"] == text


async def test_events_without_text_are_not_sent(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says("", "", "x")
    assert len(lines(await ask(client, stream=True))) == 4


@pytest.mark.parametrize("stream", [False, True])
async def test_several_choices(client: httpx.AsyncClient, engine: FakeEngine, stream: bool) -> None:
    engine.script = lambda request: says(request.id[-1], "!")(request)
    response = await ask(client, n=3, seed=40, stream=stream, stream_options={"include_usage": True})
    assert [r.sampling.seed for r in engine.requests] == [40, 41, 42]
    if stream:
        texts = ["", "", ""]
        *chunks, last, _ = lines(response)
        for chunk in chunks:
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"].get("content") or ""
        usage = last["usage"]
    else:
        texts = [choice["message"]["content"] for choice in response.json()["choices"]]
        usage = response.json()["usage"]
    assert texts == ["0!", "1!", "2!"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 6)


async def test_parameters_reach_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await ask(
        client,
        max_completion_tokens=7,
        stop=["a", "b"],
        ignore_eos=True,
        temperature=0,
        top_p=0.5,
        top_k=-1,
        min_p=0.1,
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=1.1,
        logit_bias={"99": -100},
        seed=3,
        user="me",
        store=True,
        metadata={"a": "b"},
        tools=[],
        response_format={"type": "text"},
        logprobs=None,
    )
    request = engine.requests[0]
    assert (request.max_tokens, request.stop, request.ignore_eos) == (7, ("a", "b"), True)
    assert request.sampling == SamplingParams(
        temperature=0,
        top_p=0.5,
        top_k=0,
        min_p=0.1,
        presence_penalty=-2,
        frequency_penalty=2,
        repeat_penalty=1.1,
        logit_bias={99: -100},
        seed=3,
    )


@pytest.mark.parametrize(
    ("template", "add_bos"),
    [("{{ bos_token }}{{ messages[0].content }}", False), ("{{ messages[0].content }}", True)],
)
async def test_bos_is_left_to_a_template_that_writes_it(
    client: httpx.AsyncClient, engine: FakeEngine, template: str, add_bos: bool
) -> None:
    engine.info = replace(INFO, chat_template=template)
    await ask(client)
    assert engine.requests[0].add_bos is add_bos


async def test_length_is_reported(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says("x", ending=FinishReason.LENGTH)
    assert (await ask(client)).json()["choices"][0]["finish_reason"] == "length"


async def test_broken_template_fails_chats_only(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = replace(INFO, chat_template="{% for %}")
    response = await ask(client)
    assert response.status_code == 500
    assert "does not compile" in response.json()["error"]["message"]
    assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}),
    ],
)
async def test_a_prompt_that_is_too_long_and_by_how_much(
    client: httpx.AsyncClient, engine: FakeEngine, route: str, body: dict[str, Any], stream: bool
) -> None:
    engine.script = lambda _: [ContextExceeded("600 tokens, 512 fit", n_prompt_tokens=600, n_ctx=512)]
    error = (await client.post(route, json={**body, "stream": stream})).json()["error"]
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (600, 512)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextExceeded("600 tokens, 512 fit", "messages"), 400, "context_length_exceeded"),
        (Overloaded("busy", 2.1), 429, "overloaded"),
        (EngineDied("gone"), 503, "engine_died"),
        (WorkerUnreachable("gone"), 503, "worker_unreachable"),
        (ZeroDivisionError("secret"), 500, "internal_error"),
    ],
)
async def test_refusal_before_the_first_event(
    client: httpx.AsyncClient,
    engine: FakeEngine,
    error: Exception,
    status: int,
    code: str,
    n: int,
    stream: bool,
) -> None:
    engine.script = lambda request: [error]
    response = await ask(client, stream=stream, n=n)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert "secret" not in response.text
    assert ("3" if status == 429 else None) == (response.headers.get("retry-after") if status < 500 else None)


@pytest.mark.parametrize(
    ("script", "status", "kind"),
    [
        (lambda _: [ContextExceeded("too bad", "prompt")], 400, "invalid_request_error"),
        (lambda _: [RequestError("too bad", "prompt")], 400, "invalid_request_error"),
        (fails(error="too bad"), 500, "server_error"),
    ],
)
async def test_error_event(
    client: httpx.AsyncClient, engine: FakeEngine, script: Script, status: int, kind: str
) -> None:
    engine.script = script
    response = await ask(client)
    assert response.status_code == status
    assert response.json()["error"]["message"].startswith("too bad")
    assert response.json()["error"]["type"] == kind


async def test_error_in_mid_stream(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = fails("Hel", error="the cache is full")
    *chunks, last = lines(await ask(client, stream=True))
    assert len(chunks) == 2
    assert last["error"]["message"] == "the cache is full"
    assert set(last["error"]) == {"message", "type", "param", "code"}


async def test_engine_that_dies_in_mid_stream(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = lambda request: [*says("Hel")(request)[:1], EngineDied("The engine died; it restarts")]
    assert lines(await ask(client, stream=True))[-1]["error"]["code"] == "engine_died"
    assert (await ask(client)).status_code == 503


async def test_engine_that_falls_silent_is_an_error(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = lambda request: says("x")(request)[:1]
    assert (await ask(client)).status_code == 500


async def test_stopped_by_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says("x", ending=FinishReason.CANCELLED)
    assert (await ask(client)).status_code == 503


async def test_one_failing_choice_cancels_the_others(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    def script(request: Any) -> Any:
        return [EngineDied("gone")] if request.id.endswith("-1") else says(*"x" * 1000)(request)

    engine.script = script
    assert (await ask(client, n=3)).status_code == 503
    assert len(engine.cancelled) == 3
