"""anthropic for Python: the Messages API. Arguments and output: see tests/clients/conversation.py."""

import json
import sys
from typing import Any

from anthropic import Anthropic, beta_tool

url, model, question, task = sys.argv[1:]
client = Anthropic(base_url=url, api_key="none", max_retries=0)
ask: dict[str, Any] = {"model": model, "max_tokens": 200, "extra_body": {"temperature": 0}}


@beta_tool
def get_weather(city: str) -> str:
    """Weather of a city

    Args:
        city: its name
    """
    return json.dumps({"city": city, "temperature": 18, "sky": "sunny"})


def text_of(message: Any) -> str:
    """The text of a message's blocks."""
    return "".join(block.text for block in message.content if block.type == "text")


def user(text: str) -> Any:
    """A chat of one message."""
    return [{"role": "user", "content": text}]


def streamed() -> list[str]:
    """The pieces of the answer."""
    with client.messages.stream(messages=user(question), **ask) as stream:
        return list(stream.text_stream)


def tool() -> str:
    """The SDK's tool runner calls the function and asks again."""
    return text_of(
        client.beta.messages.tool_runner(messages=user(task), tools=[get_weather], **ask).until_done()
    )


def tool_streamed() -> list[str]:
    """The same with streams; the pieces of the last answer."""
    pieces: list[str] = []
    stream: Any  # which the SDK types as an iterator of blocks as well
    for stream in client.beta.messages.tool_runner(
        messages=user(task), tools=[get_weather], stream=True, **ask
    ):
        pieces = [event.text for event in stream if event.type == "text"]
    return pieces


print(
    json.dumps(
        {
            "plain": text_of(client.messages.create(messages=user(question), **ask)),
            "streamed": streamed(),
            "tool": tool(),
            "tool_streamed": tool_streamed(),
        }
    )
)
