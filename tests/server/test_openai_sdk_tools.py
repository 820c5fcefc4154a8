"""The OpenAI SDK against a real server on the loopback, in strict parsing: tools and responses."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.server.fake_engine import FakeEngine, fails, says
from tests.server.live import async_openai_sdk, listening
from tests.server.tool_chat import ARGUMENTS, FUNCTION, PIECES, TALKER, TOOLS

HI: Any = [{"role": "user", "content": "hi"}]
CHAT_TOOLS: Any = TOOLS
RESPONSE_TOOLS: Any = [{"type": "function", **FUNCTION, "strict": False}]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(says(*PIECES), TALKER)


@pytest.fixture
async def sdk(engine: FakeEngine) -> AsyncIterator[AsyncOpenAI]:
    async with (
        listening(engine) as url,
        async_openai_sdk(url, _strict_response_validation=True) as client,
    ):
        yield client


async def test_chat(sdk: AsyncOpenAI) -> None:
    reply = await sdk.chat.completions.create(
        model="tiny", messages=HI, tools=CHAT_TOOLS, tool_choice="auto", parallel_tool_calls=True,
        reasoning_effort="high", user="me", metadata={"a": "b"}, n=2,
    )  # fmt: skip
    for choice in reply.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls is not None
        call = choice.message.tool_calls[0]
        assert call.type == "function"
        assert (call.function.name, call.function.arguments) == ("get_weather", ARGUMENTS)
        assert choice.message.model_extra == {"reasoning_content": "I should look."}
    assert reply.usage is not None
    assert reply.usage.completion_tokens_details is not None


async def test_chat_stream_and_the_answer_to_it(sdk: AsyncOpenAI) -> None:
    async with sdk.chat.completions.stream(model="tiny", messages=HI, tools=CHAT_TOOLS) as stream:
        async for _ in stream:
            pass
        message = (await stream.get_final_completion()).choices[0].message
    assert message.tool_calls is not None
    assert [call.function.arguments for call in message.tool_calls] == [ARGUMENTS, "{}"]
    answers = [{"role": "tool", "tool_call_id": call.id, "content": "sun"} for call in message.tool_calls]
    chat = [*HI, message.model_dump(exclude_none=True), *answers]
    assert (await sdk.chat.completions.create(model="tiny", messages=chat, tools=CHAT_TOOLS)).choices


async def test_messages_of_every_role(sdk: AsyncOpenAI, engine: FakeEngine) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    chat: Any = [
        {"role": "system", "content": "x"},
        {"role": "developer", "content": parts},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "y"},
        *HI,
    ]
    await sdk.chat.completions.create(model="tiny", messages=chat)
    assert engine.requests[0].prompt == "[system]x[system]a\nb[user]a\nb[assistant]y[user]hi"


async def test_response(sdk: AsyncOpenAI, engine: FakeEngine) -> None:
    reply = await sdk.responses.create(
        model="tiny", input="hi", instructions="Be kind.", tools=RESPONSE_TOOLS, tool_choice="auto",
        reasoning={"effort": "low", "summary": "auto"}, max_output_tokens=99, metadata={"a": "b"},
        temperature=0.5, include=["reasoning.encrypted_content"], parallel_tool_calls=True,
        truncation="disabled",
    )  # fmt: skip
    assert [item.type for item in reply.output] == ["reasoning", "message", "function_call", "function_call"]
    assert reply.output_text == "One moment."
    assert (await sdk.responses.retrieve(reply.id)).output == reply.output
    engine.script = says("Sunny.")
    call: Any = reply.output[2]
    given: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sun"}]
    second = await sdk.responses.create(model="tiny", input=given, previous_response_id=reply.id)
    assert second.output_text == "Sunny."
    await sdk.responses.delete(reply.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(reply.id)
    with pytest.raises(openai.BadRequestError, match="not found"):
        await sdk.responses.create(model="tiny", input="hi", previous_response_id=reply.id)


async def test_namespaces_and_custom_tools(sdk: AsyncOpenAI, engine: FakeEngine) -> None:
    def call(name: str, arguments: str) -> str:
        return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'

    engine.script = says(call("agents__f", "{}"), call("patch", '{"input": "x"}'))
    inner = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
    space = {"type": "namespace", "name": "agents", "description": "d", "tools": [inner]}
    patch = {"type": "custom", "name": "patch", "format": {"type": "text"}}
    tools: Any = [space, patch, {"type": "local_shell"}]
    reply = await sdk.responses.create(model="tiny", input="hi", tools=tools)
    first, second = reply.output
    assert first.type == "function_call"
    assert (first.namespace, first.name) == ("agents", "f")
    assert second.type == "custom_tool_call"
    assert second.input == "x"
    async with sdk.responses.stream(model="tiny", input="hi", tools=tools) as stream:
        kinds = {event.type async for event in stream}
    assert "response.custom_tool_call_input.done" in kinds


async def test_a_summary(sdk: AsyncOpenAI) -> None:
    async with sdk.responses.stream(model="tiny", input="hi", reasoning={"summary": "auto"}) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_response()
    assert "response.reasoning_summary_text.delta" in kinds
    assert final.output[0].type == "reasoning"
    assert final.output[0].summary[0].text == "I should look."


async def test_response_stream(sdk: AsyncOpenAI) -> None:
    async with sdk.responses.stream(model="tiny", input="hi", tools=RESPONSE_TOOLS) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_response()
    assert {"response.output_text.delta", "response.function_call_arguments.delta"} <= kinds
    assert "response.reasoning_text.delta" in kinds
    assert final.output_text == "One moment."
    assert final.usage is not None
    assert final.usage.output_tokens == len(PIECES)


async def test_response_that_fails(sdk: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.script = fails("Hel", error="the cache is full")
    stream = await sdk.responses.create(model="tiny", input="hi", stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "the cache is full"
