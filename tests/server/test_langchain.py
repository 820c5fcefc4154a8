"""LangChain's OpenAI client against a real server on the loopback."""

from typing import Any

import pytest
from langchain_core.messages import ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.server.fake_engine import FakeEngine, says
from tests.server.live import listening
from tests.server.tool_chat import PIECES, TALKER, TOOLS


@pytest.mark.parametrize("responses", [False, True])
async def test_a_chat_with_tools(responses: bool) -> None:
    engine = FakeEngine(says(*PIECES), TALKER)
    async with listening(engine) as url:
        model = ChatOpenAI(
            model="tiny",
            base_url=f"{url}/v1",
            api_key=SecretStr("none"),
            max_retries=0,
            use_responses_api=responses,
        )
        bound = model.bind_tools(TOOLS)
        reply = await bound.ainvoke("hi")
        assert reply.text == "One moment."
        assert [(call["name"], call["args"]) for call in reply.tool_calls] == [
            ("get_weather", {"city": "Paris"}),
            ("now", {}),
        ]
        assert reply.usage_metadata is not None
        streamed: Any = None
        async for chunk in bound.astream("hi"):
            streamed = chunk if streamed is None else streamed + chunk
        assert [call["args"] for call in streamed.tool_calls] == [{"city": "Paris"}, {}]
        engine.script = says("Sunny.")
        answers = [ToolMessage("sun", tool_call_id=call["id"]) for call in reply.tool_calls]
        assert (await bound.ainvoke([("user", "hi"), reply, *answers])).text == "Sunny."
