"""litellm: one of its providers. Arguments and output: see tests/clients/conversation.py; the argument behind
them is the provider.
"""

import json
import sys
from typing import Any

import litellm

url, model, question, task, provider = sys.argv[1:]
ask: dict[str, Any] = {
    "model": f"{provider}/{model}",
    "api_base": url if provider == "anthropic" else f"{url}/v1",
    "api_key": "none",
    "temperature": 0,
    "max_tokens": 200,
    "num_retries": 0,
}
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
asked: Any = [{"role": "user", "content": question}]
tasked: Any = [{"role": "user", "content": task}]


def whole(chat: Any, **more: Any) -> Any:
    """The message of the answer."""
    return litellm.completion(messages=chat, **ask, **more).choices[0].message


def chunks(chat: Any, **more: Any) -> list[Any]:
    """The chunks of the answer."""
    return list(litellm.completion(messages=chat, stream=True, **ask, **more))


def pieces(found: list[Any]) -> list[str]:
    """The texts of `found`."""
    return [c.choices[0].delta.content for c in found if c.choices and c.choices[0].delta.content]


def answered(message: Any) -> Any:
    """The task, the call in `message`, and its result."""
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}, call
    result = {"role": "tool", "tool_call_id": call.id, "content": json.dumps(WEATHER)}
    return [*tasked, message.model_dump(), result]


built: Any = litellm.stream_chunk_builder(chunks(tasked, tools=TOOLS), messages=tasked)
print(
    json.dumps(
        {
            "plain": whole(asked).content,
            "streamed": pieces(chunks(asked)),
            "tool": whole(answered(whole(tasked, tools=TOOLS)), tools=TOOLS).content,
            "tool_streamed": pieces(chunks(answered(built.choices[0].message), tools=TOOLS)),
        }
    )
)
