"""The Anthropic SDK against a real server on the loopback, its answers validated strictly."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.fake_engine import FakeEngine, fails, says
from tests.server.live import async_anthropic_sdk, listening
from tests.server.tool_chat import FUNCTION, PARAMETERS, PIECES, TALKER
from vram_llm.errors import Overloaded

if TYPE_CHECKING:  # it takes two seconds to load, in each process of pytest-xdist
    from anthropic import AsyncAnthropic

TOOL = {"name": FUNCTION["name"], "description": "Weather", "input_schema": PARAMETERS}
HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(info=TALKER)


@pytest.fixture
async def sdk(engine: FakeEngine) -> AsyncIterator["AsyncAnthropic"]:
    async with (
        listening(engine, api_keys=("right",)) as url,
        async_anthropic_sdk(url, api_key="right", _strict_response_validation=True) as client,
    ):
        yield client


async def test_message(sdk: "AsyncAnthropic") -> None:
    message = await sdk.messages.create(model="tiny", max_tokens=9, messages=HI, system="Be kind.")
    (block,) = message.content
    assert block.type == "text"
    assert (block.text, message.stop_reason) == ("Hello world", "end_turn")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (5, 2)


async def test_tools(sdk: "AsyncAnthropic", engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    tools: Any = [TOOL]
    message = await sdk.messages.create(model="tiny", max_tokens=9, messages=HI, tools=tools)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.content[2].type == "tool_use"
    assert message.content[2].input == {"city": "Paris"}
    results: Any = [{"type": "tool_result", "tool_use_id": message.content[2].id, "content": "sun"}]
    assistant: Any = {"role": "assistant", "content": message.content}
    chat = [*HI, assistant, {"role": "user", "content": results}]
    assert (await sdk.messages.create(model="tiny", max_tokens=9, messages=chat, tools=tools)).content


async def test_stream(sdk: "AsyncAnthropic", engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    tools: Any = [TOOL]
    async with sdk.messages.stream(model="tiny", max_tokens=9, messages=HI, tools=tools) as stream:
        assert "".join([text async for text in stream.text_stream]) == "One moment."
        message = await stream.get_final_message()
    assert message.stop_reason == "tool_use"
    assert message.content[2].type == "tool_use"
    assert message.content[2].input == {"city": "Paris"}
    assert message.usage.output_tokens == len(PIECES)


async def test_beta(sdk: "AsyncAnthropic", engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    edits: Any = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    tools: Any = [TOOL, search]
    message = await sdk.beta.messages.create(
        model="claude", max_tokens=9, messages=HI, tools=tools, context_management=edits,
        betas=["context-management-2025-06-27"], thinking={"type": "adaptive"},
        output_config={"effort": "high"},
    )  # fmt: skip
    assert message.context_management is not None
    assert message.context_management.applied_edits == []
    async with sdk.beta.messages.stream(
        model="claude", max_tokens=9, messages=HI, tools=tools, context_management=edits
    ) as stream:
        final = await stream.get_final_message()
    assert final.content[0].type == "thinking"
    assert final.content[0].signature
    counted = await sdk.beta.messages.count_tokens(model="claude", messages=HI, context_management=edits)
    assert counted.context_management is not None


async def test_count_tokens(sdk: "AsyncAnthropic") -> None:
    count = await sdk.messages.count_tokens(model="tiny", messages=HI)
    assert count.input_tokens == 1 + len("[user]hi")


async def test_errors(sdk: "AsyncAnthropic", engine: FakeEngine) -> None:
    import anthropic

    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        await sdk.messages.create(model="tiny", max_tokens=9, messages=HI, extra_body={"temperature": -3})
    with pytest.raises(anthropic.AuthenticationError):
        await sdk.with_options(api_key="wrong").messages.create(model="tiny", max_tokens=9, messages=HI)
    engine.script = lambda request: [Overloaded("The queue is full", 3.0)]
    with pytest.raises(anthropic.RateLimitError, match="queue is full"):
        await sdk.messages.create(model="tiny", max_tokens=9, messages=HI)


async def test_error_in_mid_stream(sdk: "AsyncAnthropic", engine: FakeEngine) -> None:
    import anthropic

    engine.script = fails("Hel", error="the cache is full")
    with pytest.raises(anthropic.APIStatusError, match="the cache is full"):
        async with sdk.messages.stream(model="tiny", max_tokens=9, messages=HI) as stream:
            await stream.until_done()
