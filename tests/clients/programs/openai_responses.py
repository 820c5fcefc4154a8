"""openai-python: the Responses API. Arguments and output: see tests/clients/conversation.py."""

import json
import sys
from typing import Any

from openai import OpenAI

TOOLS: Any = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": False,
    }
]
WEATHER = {"city": "Paris", "temperature": 18, "sky": "sunny"}
url, model, question, task = sys.argv[1:]
client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
ask: dict[str, Any] = {"model": model, "temperature": 0}


def streamed(given: Any, **more: Any) -> tuple[list[str], Any]:
    """The pieces of the answer, and the response."""
    with client.responses.stream(input=given, **ask, **more) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        return pieces, stream.get_final_response()


def result_of(response: Any) -> Any:
    """The result of the one call in `response`."""
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Paris"}, call
    return {"type": "function_call_output", "call_id": call.call_id, "output": json.dumps(WEATHER)}


def tool() -> Any:
    """The second request names the first one's response."""
    first = client.responses.create(input=task, tools=TOOLS, **ask)
    return client.responses.create(
        input=[result_of(first)], previous_response_id=first.id, tools=TOOLS, **ask
    ).output_text


def tool_streamed() -> list[str]:
    """The second request sends all items again."""
    _, first = streamed(task, tools=TOOLS)
    items: Any = [{"role": "user", "content": task}, *first.output, result_of(first)]
    return streamed(items, tools=TOOLS)[0]


print(
    json.dumps(
        {
            "plain": client.responses.create(input=question, **ask).output_text,
            "streamed": streamed(question)[0],
            "tool": tool(),
            "tool_streamed": tool_streamed(),
        }
    )
)
