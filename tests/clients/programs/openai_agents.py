"""openai-agents: an agent over responses or chat completions. Arguments and output: see
tests/clients/conversation.py; the argument behind them is the API.
"""

import asyncio
import json
import sys
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

url, model, question, task, api = sys.argv[1:]
kind = {"responses": OpenAIResponsesModel, "chat": OpenAIChatCompletionsModel}[api]
set_tracing_disabled(True)


@function_tool
def get_weather(city: str) -> str:
    """Weather of a city"""
    return json.dumps({"city": city, "temperature": 18, "sky": "sunny"})


async def streamed(agent: Any, text: str) -> list[str]:
    """The pieces of text."""
    events = [event async for event in Runner.run_streamed(agent, text).stream_events()]
    data = [event.data for event in events if event.type == "raw_response_event"]
    return [item.delta for item in data if item.type == "response.output_text.delta"]


async def main() -> None:
    """Ask in every way."""
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    settings = ModelSettings(temperature=0)
    agent = Agent(name="Helper", model=kind(model, client), model_settings=settings, tools=[get_weather])
    answers = {
        "plain": (await Runner.run(agent, question)).final_output,
        "streamed": await streamed(agent, question),
        "tool": (await Runner.run(agent, task)).final_output,
        "tool_streamed": await streamed(agent, task),
    }
    print(json.dumps(answers))


asyncio.run(main())
