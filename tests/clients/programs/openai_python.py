"""openai-python: chat completions. Arguments and output: see tests/clients/conversation.py."""

import json
import sys
from typing import Any

from openai import OpenAI

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
WEATHER = {"city": "Paris", "temperature": 18, "sky": "sunny"}
url, model, question, task = sys.argv[1:]
client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
ask: dict[str, Any] = {"model": model, "temperature": 0}


def plain() -> Any:
    """The answer at once."""
    chat: Any = [{"role": "user", "content": question}]
    return client.chat.completions.create(messages=chat, **ask).choices[0].message.content


def streamed(chat: Any, **more: Any) -> list[str]:
    """The pieces of the answer."""
    chunks = client.chat.completions.create(messages=chat, stream=True, **ask, **more)
    return [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]


def answered(chat: Any, message: Any) -> Any:
    """`chat`, and the call with its result."""
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}, call
    result = {"role": "tool", "tool_call_id": call.id, "content": json.dumps(WEATHER)}
    return [*chat, message.model_dump(), result]


def tool() -> Any:
    """The answer to the task, after a call."""
    chat: Any = [{"role": "user", "content": task}]
    message = client.chat.completions.create(messages=chat, tools=TOOLS, **ask).choices[0].message
    chat = answered(chat, message)
    return client.chat.completions.create(messages=chat, tools=TOOLS, **ask).choices[0].message.content


def tool_streamed() -> list[str]:
    """The same, with both answers streamed."""
    chat: Any = [{"role": "user", "content": task}]
    with client.chat.completions.stream(messages=chat, tools=TOOLS, **ask) as stream:
        message = stream.get_final_completion().choices[0].message
    return streamed(answered(chat, message), tools=TOOLS)


print(
    json.dumps(
        {
            "plain": plain(),
            "streamed": streamed([{"role": "user", "content": question}]),
            "tool": tool(),
            "tool_streamed": tool_streamed(),
        }
    )
)
