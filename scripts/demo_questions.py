"""Questions of `make demo` to the built-in model by the OpenAI SDK: plain, with thinking, with a tool."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from scripts.demo_error import DemoError

if TYPE_CHECKING:
    from openai import OpenAI

QUESTIONS = ("Hello! What can you do for me?", "What is a KV cache?")
WEATHER = "What is the weather in Paris?"
THOUGHT_ABOUT = "Which quantisation should I use?"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
RESULT = {"temperature": 18, "sky": "sunny"}


def ask(base_url: str) -> None:
    """Ask, and print each answer as it arrives. Raises DemoError."""
    import openai

    with openai.OpenAI(base_url=base_url, api_key="none") as client:
        try:
            for question in QUESTIONS:
                _stream(client, question)
            _think(client, THOUGHT_ABOUT)
            _call(client)
        except openai.OpenAIError as error:
            raise DemoError(f"the server did not answer: {error}") from error


def _stream(client: OpenAI, question: str) -> None:
    print(f"\n> {question}")
    heard, first, used = 0, None, 0
    for chunk in client.chat.completions.create(
        model="",
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=200,
        stream=True,
        stream_options={"include_usage": True},
    ):
        text = (chunk.choices[0].delta.content or "") if chunk.choices else ""
        first = first or (time.perf_counter() if text else None)
        used = chunk.usage.completion_tokens if chunk.usage else used
        heard += len(text)
        print(text, end="", flush=True)
    if heard == 0 or first is None:
        raise DemoError("the server's answer was empty")
    seconds = time.perf_counter() - first
    print(f"\n  ({used} tokens, {(used - 1) / seconds:,.0f} tokens per second)", flush=True)


def _think(client: OpenAI, question: str) -> None:
    print(f"\n> {question}    (with enable_thinking)")
    reply = client.chat.completions.create(
        model="",
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=200,
        extra_body={"chat_template_kwargs": {"enable_thinking": True}},
    )
    message: Any = reply.choices[0].message
    print(f"  thinks: {message.reasoning_content}\n{message.content}", flush=True)


def _call(client: OpenAI) -> None:
    print(f"\n> {WEATHER}    (with a tool, get_weather)")
    chat: list[Any] = [{"role": "user", "content": WEATHER}]
    tools: Any = [TOOL]
    reply = client.chat.completions.create(
        model="", messages=chat, tools=tools, temperature=0, max_tokens=200
    )
    calls: Any = reply.choices[0].message.tool_calls
    if not calls:
        raise DemoError(f"no tool was called; the answer was: {reply.choices[0].message.content}")
    function = calls[0].function
    print(f"  calls {function.name}({function.arguments}), and gets {json.dumps(RESULT)}")
    chat += [
        reply.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": calls[0].id, "content": json.dumps(RESULT)},
    ]
    reply = client.chat.completions.create(
        model="", messages=chat, tools=tools, temperature=0, max_tokens=200
    )
    print(reply.choices[0].message.content, flush=True)
