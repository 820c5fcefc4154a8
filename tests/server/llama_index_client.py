"""LlamaIndex's client against the server whose /v1 is the first argument; what it got as JSON.

Run by the Python of an environment of its own: it wants an older OpenAI SDK than the one tested here.
"""

import json
import sys
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike


def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


def now() -> str:
    """The time."""
    return "noon"


def main() -> None:
    """Ask in every way it has."""
    model = OpenAILike(
        model="tiny",
        api_base=sys.argv[1],
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
    )
    asked, tools = (
        [ChatMessage(role="user", content="hi")],
        [FunctionTool.from_defaults(get_weather), FunctionTool.from_defaults(now)],
    )
    reply = model.chat_with_tools(tools, chat_history=asked, allow_parallel_tool_calls=True)
    calls = model.get_tool_calls_from_response(reply)
    *_, last = model.stream_chat_with_tools(tools, chat_history=asked, allow_parallel_tool_calls=True)
    found: dict[str, Any] = {
        "calls": [[call.tool_name, call.tool_kwargs] for call in calls],
        "said": reply.message.content,
        "streamed": last.message.content,
        "streamed_calls": [call.tool_kwargs for call in model.get_tool_calls_from_response(last)],
    }
    answers = [
        ChatMessage(role="tool", content="sun", additional_kwargs={"tool_call_id": call.tool_id})
        for call in calls
    ]
    found["then"] = model.chat([*asked, reply.message, *answers]).message.content
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
