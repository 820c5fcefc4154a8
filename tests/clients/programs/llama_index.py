"""LlamaIndex's OpenAILike. Arguments and output: see tests/clients/conversation.py."""

import json
import sys
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

url, model, question, task = sys.argv[1:]
llm = OpenAILike(
    model=model,
    api_base=f"{url}/v1",
    api_key="none",
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=4096,
    temperature=0,
    max_retries=0,
)


def get_weather(city: str) -> str:
    """Weather of a city"""
    return json.dumps({"city": city, "temperature": 18, "sky": "sunny"})


TOOLS = [FunctionTool.from_defaults(get_weather, description="Weather of a city")]


def answered(chat: list[ChatMessage], reply: Any) -> list[ChatMessage]:
    """`chat`, the one call of `reply`, and its result."""
    (call,) = llm.get_tool_calls_from_response(reply)
    result = ChatMessage(
        role="tool", content=get_weather(**call.tool_kwargs), additional_kwargs={"tool_call_id": call.tool_id}
    )
    return [*chat, reply.message, result]


def tool() -> Any:
    """The answer to the task, after a call."""
    chat = [ChatMessage(role="user", content=task)]
    reply = llm.chat_with_tools(TOOLS, chat_history=chat)
    return llm.chat_with_tools(TOOLS, chat_history=answered(chat, reply)).message.content


def tool_streamed() -> list[str]:
    """The same with streams; the pieces of the last answer."""
    chat = [ChatMessage(role="user", content=task)]
    *_, last = llm.stream_chat_with_tools(TOOLS, chat_history=chat)
    pieces = llm.stream_chat_with_tools(TOOLS, chat_history=answered(chat, last))
    return [piece.delta for piece in pieces if piece.delta]


asked = [ChatMessage(role="user", content=question)]
print(
    json.dumps(
        {
            "plain": llm.chat(asked).message.content,
            "streamed": [piece.delta for piece in llm.stream_chat(asked) if piece.delta],
            "tool": tool(),
            "tool_streamed": tool_streamed(),
        }
    )
)
