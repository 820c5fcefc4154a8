"""Messages of every role and shape."""

from typing import Any

import pytest

from vram_llm.errors import RequestError
from vram_llm.server.messages import template_messages
from vram_llm.server.pictures import Pictures
from vram_llm.server.schemas import Message


def shown(message: dict[str, Any]) -> dict[str, Any]:
    return template_messages([Message.model_validate(message)], Pictures(taken=False))[0]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_roles(role: str) -> None:
    assert shown({"role": role, "content": "x"}) == {"role": role, "content": "x"}


def test_function_is_the_old_name_of_tool() -> None:
    assert shown({"role": "function", "name": "f", "content": "x"}) == {
        "role": "tool",
        "name": "f",
        "content": "x",
    }


def test_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert shown({"role": "user", "content": parts})["content"] == "a\nb"


def test_a_reply_can_be_sent_back_as_the_sdk_dumps_it() -> None:
    reply: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
        "reasoning_content": "hm",
    }
    assert shown(reply) == {"role": "assistant", "content": "", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[1].content"),
        ({"role": "user", "content": 3}, "messages[1].content"),
        ({"role": "user", "content": []}, "messages[1].content"),
        ({"role": "user", "content": ["x"]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[1].content[0].image_url"),
        ({"role": "system", "content": [{"type": "image_url"}]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[1].content[0]"),
        ({"role": "user", "content": "x", "tool_calls": []}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": 3}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[1].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "messages[1].tool_calls[0].id"),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        ({"role": "user", "content": "x", "name": 3}, "messages[1].name"),
        ({"role": "user", "content": "x", "mood": "good"}, "messages[1].mood"),
    ],
)
def test_refused(message: dict[str, Any], param: str) -> None:
    messages = [Message(role="user", content="hi"), Message.model_validate(message)]
    with pytest.raises(RequestError) as caught:
        template_messages(messages, Pictures(taken=False))
    assert caught.value.param == param
