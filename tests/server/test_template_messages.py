"""Messages of every role and shape."""

from typing import Any

import pytest

from vram_llm.errors import RequestError
from vram_llm.server.image_inputs import RequestImages
from vram_llm.server.schemas import Message
from vram_llm.server.template_messages import template_messages


def shown(message: dict[str, Any]) -> dict[str, Any]:
    return template_messages([Message.model_validate(message)], RequestImages(taken=False))[0]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_roles(role: str) -> None:
    assert shown({"role": role, "content": "x"}) == {"role": role, "content": "x"}


def test_function_is_the_old_name_of_tool() -> None:
    assert shown({"role": "function", "name": "f", "content": "x"}) == {
        "role": "tool",
        "name": "f",
        "content": "x",
    }


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
BOOKKEEPING = {
    "parsed": {"a": 1}, "id": "msg_1", "timestamp": 5, "created_at": "now", "model": "m", "refusal": None,
    "annotations": [], "audio": None, "function_call": None, "tool_calls": [], "reasoning_details": [{}],
    "provider_specific_fields": {"a": 1}, "cache_control": {"type": "ephemeral"}, "images": [],
}  # fmt: skip


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
@pytest.mark.parametrize("name", BOOKKEEPING)
def test_fields_that_clients_add_have_no_effect(role: str, name: str) -> None:
    assert shown({"role": role, "content": "x", name: BOOKKEEPING[name]}) == {"role": role, "content": "x"}


@pytest.mark.parametrize(
    "message",
    [
        {"content": "x", "reasoning_content": "hm"},
        {"content": "x", "reasoning": "hm"},
        {"content": "x", "reasoning": "hm", "reasoning_content": "hm"},
        {"content": "x", "reasoning": None, "thinking": "hm"},
        {"content": "x", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}, {"data": "..."}]},
        {"content": "x", "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x"}]},
        {"content": [{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "x"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                     {"type": "text", "text": "x", "annotations": []}]},
    ],
)  # fmt: skip
def test_thinking_under_every_name(message: dict[str, Any]) -> None:
    wanted = {"role": "assistant", "content": "x", "reasoning_content": "hm"}
    assert shown({"role": "assistant", **message}) == wanted


@pytest.mark.parametrize("role", ["assistant", "tool"])
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": []}, {"content": ""}])
def test_content_may_be_empty(role: str, content: dict[str, Any]) -> None:
    assert shown({"role": role, **content}) == {"role": role, "content": ""}


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (CALL, '{"a": 1}'),
        ({**CALL, "function": {"name": "f", "arguments": {"a": "ü"}}}, '{"a": "ü"}'),
        ({**CALL, "function": {"name": "f"}}, "{}"),
        ({**CALL, "function": {"name": "f", "arguments": None, "parsed_arguments": {}}}, "{}"),
        ({**CALL, "index": 0, "provider_specific_fields": None, "extra_content": {}}, '{"a": 1}'),
        ({"id": "1", "type": "custom", "custom": {"name": "f", "input": "x"}}, '{"input": "x"}'),
    ],
)
def test_calls(call: dict[str, Any], arguments: str) -> None:
    function = {"name": "f", "arguments": arguments}
    wanted = {"id": "1", "type": "function", "function": function}
    assert shown({"role": "assistant", "tool_calls": [call]})["tool_calls"] == [wanted]


def test_a_call_without_an_id_gets_one() -> None:
    calls = [{"function": {"name": "f"}}, {"id": None, "function": {"name": "g"}}]
    found = shown({"role": "assistant", "tool_calls": calls})["tool_calls"]
    assert [call["id"] for call in found] == ["call_0", "call_1"]


def test_the_older_form_of_a_call() -> None:
    message = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    (call,) = shown(message)["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": "{}"}


def test_a_result_in_parts() -> None:
    parts = [{"type": "text", "text": "a", "cache_control": {}}, {"type": "text", "text": "b"}]
    message = {"role": "tool", "tool_call_id": "1", "tool_name": "f", "content": parts}
    assert shown(message) == {"role": "tool", "content": "a\nb", "tool_call_id": "1", "name": "f"}


def test_a_refusal_is_text() -> None:
    parts = [{"type": "refusal", "refusal": "no"}]
    for message in (
        {"content": parts},
        {"content": None, "refusal": "no"},
        {"content": "no", "refusal": None},
    ):
        assert shown({"role": "assistant", **message})["content"] == "no"


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
        ({"role": "user", "content": [{"type": "input_video"}]}, "messages[1].content[0]"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": 3}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[1].tool_calls[0]"),
        (
            {"role": "assistant", "tool_calls": [{"id": 3, "function": {"name": "f"}}]},
            "messages[1].tool_calls[0].id",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": 3}}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "mood": 1}]},
            "messages[1].tool_calls[0].mood",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "mood": 1}}]},
            "messages[1].tool_calls[0].function.mood",
        ),
        ({"role": "assistant", "function_call": "f"}, "messages[1].function_call"),
        ({"role": "assistant", "function_call": {"arguments": "{}"}}, "messages[1].function_call.name"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "mood": 1}]},
            "messages[1].content[0].mood",
        ),
        (
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "mood": 1}]},
            "messages[1].content[0].mood",
        ),
        (
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "c", "type": "custom", "custom": {"name": "f", "input": "x", "mood": 1}}
                ],
            },
            "messages[1].tool_calls[0].custom.mood",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "zoom": 2}}]},
            "messages[1].content[0].image_url.zoom",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}, "zoom": 2}]},
            "messages[1].content[0].zoom",
        ),
        ({"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}, "messages[1].content[0]"),
        ({"role": "assistant", "content": "x", "reasoning": 3}, "messages[1].reasoning"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "messages[1].audio"),
        ({"role": "user", "content": "x", "name": 3}, "messages[1].name"),
        ({"role": "user", "content": "x", "mood": "good"}, "messages[1].mood"),
    ],
)
def test_refused(message: dict[str, Any], param: str) -> None:
    messages = [Message(role="user", content="hi"), Message.model_validate(message)]
    with pytest.raises(RequestError) as caught:
        template_messages(messages, RequestImages(taken=False))
    assert caught.value.param == param
