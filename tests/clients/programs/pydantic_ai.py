"""pydantic-ai: an agent over one of its model classes. Arguments and output: see
tests/clients/conversation.py; the argument behind them is the API.
"""

import asyncio
import json
import sys
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

url, name, question, task, api = sys.argv[1:]


def chosen() -> Any:
    """The model of the API."""
    if api == "anthropic":
        from anthropic import AsyncAnthropic

        client = AsyncAnthropic(base_url=url, api_key="none", max_retries=0)
        return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=client))
    kind = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}[api]
    return kind(name, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))


agent = Agent(chosen(), model_settings={"temperature": 0})


@agent.tool_plain
def get_weather(city: str) -> str:
    """Weather of a city"""
    return json.dumps({"city": city, "temperature": 18, "sky": "sunny"})


async def streamed(text: str) -> list[str]:
    """The pieces of text."""
    async with agent.run_stream(text) as run:
        return [piece async for piece in run.stream_text(delta=True, debounce_by=None)]


async def main() -> None:
    """Ask in every way."""
    answers = {
        "plain": (await agent.run(question)).output,
        "streamed": await streamed(question),
        "tool": (await agent.run(task)).output,
        "tool_streamed": await streamed(task),
    }
    print(json.dumps(answers))


asyncio.run(main())
