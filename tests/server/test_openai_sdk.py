"""The OpenAI SDK against a real server on the loopback."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.server.fake_engine import FakeEngine, fails
from tests.server.live import async_openai_sdk, listening
from vram_llm.engine.model_info import EngineState
from vram_llm.errors import ContextExceeded, Overloaded


@pytest.fixture
async def sdk(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with async_openai_sdk(url, _strict_response_validation=True) as client:
        yield client


async def chat(sdk: AsyncOpenAI, **options: Any) -> Any:
    messages = [{"role": "user", "content": "hi"}]
    return await sdk.chat.completions.create(**{"model": "tiny", "messages": messages, **options})


async def test_a_gap_filled_and_the_best_of_several(sdk: AsyncOpenAI, engine: FakeEngine) -> None:
    reply = await sdk.completions.create(model="tiny", prompt="def", suffix="return", best_of=3, n=2)
    assert [choice.text for choice in reply.choices] == ["Hello world"] * 2
    assert [request.suffix for request in engine.requests] == ["return"] * 3


async def test_chat(sdk: AsyncOpenAI) -> None:
    reply = await chat(sdk, n=2)
    assert [choice.message.content for choice in reply.choices] == ["Hello world"] * 2
    assert reply.usage.prompt_tokens_details.cached_tokens == 0


async def test_chat_stream(sdk: AsyncOpenAI) -> None:
    chunks = [c async for c in await chat(sdk, stream=True, stream_options={"include_usage": True})]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello world"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 2


async def test_completion(sdk: AsyncOpenAI) -> None:
    reply = await sdk.completions.create(model="tiny", prompt=["a", "b"], echo=True)
    assert [choice.text for choice in reply.choices] == ["aHello world", "bHello world"]


async def test_completion_stream(sdk: AsyncOpenAI) -> None:
    sdk._strict_response_validation = False  # its type has no null finish_reason, which OpenAI sends as well
    stream = await sdk.completions.create(model="tiny", prompt=[1, 2], stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hello world"


async def test_models(sdk: AsyncOpenAI) -> None:
    assert [model.id async for model in sdk.models.list()] == ["tiny"]
    assert (await sdk.models.retrieve("tiny")).object == "model"


async def test_unknown_model(sdk: AsyncOpenAI) -> None:
    assert (await chat(sdk, model="gpt-9")).model == "tiny"


@pytest.mark.parametrize("stream", [False, True])
async def test_bad_requests(sdk: AsyncOpenAI, engine: FakeEngine, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await chat(sdk, temperature=-3, stream=stream)
    assert caught.value.param == "temperature"
    engine.script = lambda request: [ContextExceeded("600 tokens; 512 fit")]
    with pytest.raises(openai.BadRequestError, match="512 fit") as caught:
        await chat(sdk, stream=stream)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_overload(sdk: AsyncOpenAI, engine: FakeEngine, stream: bool) -> None:
    engine.script = lambda request: [Overloaded("The queue is full", 3.0)]
    with pytest.raises(openai.RateLimitError, match="queue is full") as caught:
        await chat(sdk, stream=stream)
    assert caught.value.response.headers["retry-after"] == "3"


async def test_loading(sdk: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.state, engine.info, engine.detail = EngineState.LOADING, None, "loading, 5 %"
    with pytest.raises(openai.APIStatusError, match="Loading model, 5 %") as caught:
        await chat(sdk)
    assert caught.value.status_code == 503


async def test_error_in_mid_stream(sdk: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.script = fails("Hel", error="the cache is full")
    stream = await chat(sdk, stream=True)
    with pytest.raises(openai.APIError, match="the cache is full"):
        async for _ in stream:
            pass


async def test_wrong_key(engine: FakeEngine) -> None:
    async with listening(engine, api_keys=("right",)) as url:
        async with async_openai_sdk(url, api_key="wrong") as sdk:
            with pytest.raises(openai.AuthenticationError):
                await chat(sdk)
        async with async_openai_sdk(url, api_key="right") as sdk:
            assert (await chat(sdk)).choices
