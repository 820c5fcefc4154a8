"""Logprobs as OpenAI's endpoints write them, whole and in chunks, by the SDK's own strict reading."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.server.fake_engine import FakeEngine, Step
from tests.server.live import async_openai_sdk
from vram_llm.engine.request import FinishReason, Likelihood, Request, TokenCandidate, TokenEvent


def _likelihood(piece: bytes, logprob: float | None, *top: tuple[bytes, float]) -> Likelihood:
    return Likelihood(
        TokenCandidate(1, piece, logprob), tuple(TokenCandidate(2, p, value) for p, value in top)
    )


PROMPT = (
    _likelihood(b"<s>", None),
    _likelihood(b"a", -1.0, (b"a", -1.0), (b"b", -2.0)),
    _likelihood(b" c", -3.0, (b"d", -0.5), (b" c", -3.0)),
)
ANSWER = (
    _likelihood(b"x", -0.25, (b"x", -0.25), (b"y", -1.5)),
    _likelihood(b"\xc3", -0.5, (b"z", -0.4), (b"\xc3", -0.5)),
    _likelihood(b"\xa9", -0.125, (b"\xa9", -0.125), (b"\xa8", -2.5)),
)


def _script(request: Request) -> list[Step]:
    """Three tokens, the last two of them one character."""
    received = ANSWER if request.logprobs is not None else ()
    prompt = PROMPT if request.prompt_logprobs is not None else ()
    events = [("x", received[:1], prompt), ("", received[1:2], ()), ("é", received[2:], ())]
    return [
        *(
            TokenEvent(
                id=request.id, text=text, logprobs=tuple(logprobs), prompt_logprobs=tuple(of_prompt),
                prompt_tokens=3, completion_tokens=i + 1,
            )
            for i, (text, logprobs, of_prompt) in enumerate(events)
        ),
        TokenEvent(
            id=request.id, prompt_tokens=3, completion_tokens=3, finish_reason=FinishReason.LENGTH
        ),
    ]  # fmt: skip


@pytest.fixture
async def sdk(url: str, engine: FakeEngine) -> AsyncIterator[AsyncOpenAI]:
    engine.script = _script
    async with async_openai_sdk(url, _strict_response_validation=True) as client:
        yield client


async def _chat(sdk: AsyncOpenAI, **options: Any) -> Any:
    messages = [{"role": "user", "content": "hi"}]
    return await sdk.chat.completions.create(**{"model": "tiny", "messages": messages, **options})


CHAT = [
    ("x", [120], -0.25, [("x", -0.25), ("y", -1.5)]),
    ("\ufffd", [0xC3], -0.5, [("z", -0.4), ("\ufffd", -0.5)]),
    ("\ufffd", [0xA9], -0.125, [("\ufffd", -0.125), ("\ufffd", -2.5)]),
]


def _plain(content: list[Any]) -> list[Any]:
    return [(c.token, c.bytes, c.logprob, [(t.token, t.logprob) for t in c.top_logprobs]) for c in content]


async def test_chat(sdk: AsyncOpenAI, engine: FakeEngine) -> None:
    reply = await _chat(sdk, logprobs=True, top_logprobs=2)
    assert engine.requests[0].logprobs == 2
    assert engine.requests[0].prompt_logprobs is None
    assert _plain(reply.choices[0].logprobs.content) == CHAT


async def test_chat_stream(sdk: AsyncOpenAI) -> None:
    chunks = [chunk async for chunk in await _chat(sdk, logprobs=True, top_logprobs=2, stream=True)]
    received = [chunk.choices[0].logprobs for chunk in chunks]
    assert [len(each.content) if each else 0 for each in received] == [0, 1, 1, 1, 0]
    assert _plain([c for each in received if each for c in each.content]) == CHAT
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "xé"


async def test_no_logprobs_without_a_request(sdk: AsyncOpenAI, engine: FakeEngine) -> None:
    assert (await _chat(sdk)).choices[0].logprobs is None
    assert (await _chat(sdk, logprobs=False, top_logprobs=0)).choices[0].logprobs is None
    assert (await sdk.completions.create(model="tiny", prompt="a")).choices[0].logprobs is None
    assert [request.logprobs for request in engine.requests] == [None, None, None]
    await _chat(sdk, logprobs=True)
    assert engine.requests[-1].logprobs == 0


async def test_completion(sdk: AsyncOpenAI, engine: FakeEngine) -> None:
    choice = (await sdk.completions.create(model="tiny", prompt="a c", logprobs=2)).choices[0]
    assert engine.requests[0].prompt_logprobs is None
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["x", "bytes:\\xc3", "bytes:\\xa9"]
    assert choice.logprobs.token_logprobs == [-0.25, -0.5, -0.125]
    assert choice.logprobs.top_logprobs is not None
    assert choice.logprobs.top_logprobs[1] == {"z": -0.4, "bytes:\\xc3": -0.5}
    assert choice.logprobs.text_offset == [0, 1, 2]


async def test_completion_stream(url: str, engine: FakeEngine) -> None:
    """Its chunks have no finish reason until the last, as OpenAI's: the SDK's strict reading wants one."""
    engine.script = _script
    async with async_openai_sdk(url) as sdk:
        stream = await sdk.completions.create(model="tiny", prompt="a c", logprobs=0, stream=True)
        received = [chunk.choices[0].logprobs async for chunk in stream]
    assert [each.token_logprobs for each in received if each] == [[-0.25], [-0.5], [-0.125]]
    assert [each.text_offset for each in received if each] == [[0], [1], [2]]
    assert [each.top_logprobs for each in received if each] == [None] * 3


TOLD = {
    "tokens": ["<s>", "a", " c", "x", "bytes:\\xc3", "bytes:\\xa9"],
    "token_logprobs": [None, -1.0, -3.0, -0.25, -0.5, -0.125],
}


@pytest.mark.parametrize(
    ("prompt", "text", "offsets"),
    [("a c", "a cxé", [0, 0, 1, 3, 4, 5]), ([5, 6, 7], "<s>a cxé", [0, 3, 4, 6, 7, 8])],
)
async def test_echo(url: str, engine: FakeEngine, prompt: Any, text: str, offsets: list[int]) -> None:
    """Nothing is predicted of the first token: null, which the SDK's types do not foresee."""
    engine.script = _script
    async with async_openai_sdk(url) as sdk:
        options: dict[str, Any] = {"model": "tiny", "prompt": prompt, "echo": True, "logprobs": 1}
        (choice,) = (await sdk.completions.create(**options, max_tokens=0)).choices
        assert (engine.requests[0].max_tokens, engine.requests[0].prompt_logprobs) == (0, 1)
        assert choice.text == text
        assert choice.logprobs is not None
        received = choice.logprobs.model_dump()
        assert {name: received[name] for name in TOLD} == TOLD
        assert received["top_logprobs"][:2] == [None, {"a": -1.0, "b": -2.0}]
        assert received["text_offset"] == offsets
        chunks = [chunk.choices[0] async for chunk in await sdk.completions.create(**options, stream=True)]
    assert "".join(chunk.text for chunk in chunks) == text
    streamed = [chunk.logprobs.model_dump() for chunk in chunks if chunk.logprobs]
    assert [value for each in streamed for value in each["tokens"]] == TOLD["tokens"]
    assert [value for each in streamed for value in each["text_offset"]] == offsets
