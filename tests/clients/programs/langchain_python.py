"""LangChain for Python: an agent over one of its model classes. Arguments and output: see
tests/clients/conversation.py; the argument behind them is the API.
"""

import json
import sys
from typing import Any

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI

url, name, question, task, api = sys.argv[1:]


def chosen() -> Any:
    """The model of the API."""
    ask: dict[str, Any] = {"model": name, "api_key": "none", "max_retries": 0}
    if api == "anthropic":
        return ChatAnthropic(base_url=url, **ask)
    return ChatOpenAI(base_url=f"{url}/v1", temperature=0, use_responses_api=api == "responses", **ask)


def get_weather(city: str) -> str:
    """Weather of a city"""
    return json.dumps({"city": city, "temperature": 18, "sky": "sunny"})


model = chosen()
agent = create_agent(model, [get_weather])
messages: Any = {"messages": [{"role": "user", "content": task}]}
chunks = [chunk for chunk, _ in agent.stream(messages, stream_mode="messages")]
print(
    json.dumps(
        {
            "plain": model.invoke(question).text,
            "streamed": [chunk.text for chunk in model.stream(question) if chunk.text],
            "tool": agent.invoke(messages)["messages"][-1].text,
            "tool_streamed": [chunk.text for chunk in chunks if chunk.type != "tool" and chunk.text],
        }
    )
)
