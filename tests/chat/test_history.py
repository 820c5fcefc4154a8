"""A chat with calls in it, as templates of several kinds read it."""

import json
from typing import Any

import pytest

from vram_llm.chat import history
from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.template import ChatTemplate

TOOL = {
    "type": "function",
    "function": {"name": "now", "description": "The time", "parameters": {"type": "object"}},
}
ARGUMENTS = '{"zone": "CET"}'
CALL = {"id": "call_0123456789", "type": "function", "function": {"name": "now", "arguments": ARGUMENTS}}
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "What time is it?"},
    {"role": "assistant", "content": "Let me see.", "reasoning_content": "Hm.", "tool_calls": [CALL]},
    {"role": "tool", "content": "12:00", "tool_call_id": "call_0123456789"},
    {"role": "tool", "content": "sharp", "tool_call_id": "call_0123456789"},
]
SPEAKS = (
    '{{ tools }}<tool_call>\n{"name": , "arguments": }{% for m in messages %}{{ m | tojson }}{% endfor %}'
)


def shown(source: str | None, messages: list[dict[str, Any]] = CHAT, tools: Any = (TOOL,)) -> Any:
    template = ChatTemplate(source, "<s>", "</s>")
    return history.messages_for_template(messages, list(tools), dialect_of(source), template)


def test_arguments_are_objects_to_templates_that_write_them_as_json() -> None:
    messages = shown(SPEAKS)
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == {"zone": "CET"}
    assert messages[1]["reasoning_content"] == "Hm."
    assert CHAT[1]["tool_calls"][0]["function"]["arguments"] == ARGUMENTS


@pytest.mark.parametrize(
    "write",
    ["{{ 'x' + c.function.arguments }}", "{{ c.function.arguments }}", "{{ c.function.arguments ~ '' }}"],
)
def test_arguments_are_text_to_templates_that_put_them_in_as_they_are(write: str) -> None:
    source = (
        SPEAKS
        + "{% for m in messages %}{% for c in m.tool_calls or [] %}"
        + write
        + "{% endfor %}{% endfor %}"
    )
    assert shown(source)[1]["tool_calls"][0]["function"]["arguments"] == ARGUMENTS


@pytest.mark.parametrize("text", ["{oops", "[1]", "[" * 100_000])
def test_arguments_that_are_no_object(text: str) -> None:
    call = {**CALL, "function": {"name": "now", "arguments": text}}
    (message,) = shown(SPEAKS, [{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert message["tool_calls"][0]["function"]["arguments"] == {"arguments": text}


def test_tools_are_text_if_the_template_shows_none() -> None:
    system, user, assistant, answers = shown(None)
    assert system["role"] == "system"
    assert json.dumps(TOOL["function"]) in system["content"]
    assert user == CHAT[0]
    assert "tool_calls" not in assistant
    assert assistant["content"] == (
        f'Let me see.\n<tool_call>\n{{"name": "now", "arguments": {ARGUMENTS}}}\n</tool_call>'
    )
    assert answers == {
        "role": "user",
        "content": "<tool_response>\n12:00\n</tool_response>\n<tool_response>\nsharp\n</tool_response>",
    }
    assert "answers" not in CHAT[2]


def test_tools_as_text_follow_the_system_message() -> None:
    messages = shown(None, [{"role": "developer", "content": "Be kind."}, CHAT[0]])
    assert [m["role"] for m in messages] == ["system", "user"]
    assert messages[0]["content"].startswith("Be kind.\n\n# Tools")


def test_a_template_without_system_messages_gets_them_in_the_users() -> None:
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    (message,) = shown(source, [{"role": "system", "content": "Be kind."}, CHAT[0]], ())
    assert message == {"role": "user", "content": "Be kind.\n\nWhat time is it?"}


def test_mistral_gets_ids_of_nine_characters_that_belong_together() -> None:
    messages = shown("{{ tools }}[TOOL_CALLS]{% for m in messages %}{{ m | tojson }}{% endfor %}")
    call_id = messages[1]["tool_calls"][0]["id"]
    assert len(call_id) == 9
    assert {m["tool_call_id"] for m in messages[2:]} == {call_id}


def test_harmony_shows_thinking_or_content_with_a_call() -> None:
    source = (
        "{{ tools }}<|channel|><|message|>{% for m in messages %}{{ m.thinking or m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
    )
    message = shown(source)[1]
    assert (message["thinking"], message["content"]) == ("Hm.\n\nLet me see.", "")
    assert "reasoning_content" not in message
    answer = {"role": "assistant", "content": "Noon.", "reasoning_content": "Hm."}
    assert shown(source, [answer]) == [{"role": "assistant", "content": "Noon.", "thinking": "Hm."}]


def test_harmony_keeps_the_content_of_answered_calls() -> None:
    source = (
        "{{ tools }}<|channel|><|message|>{% for m in messages %}"
        "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    messages = shown(source, [*CHAT, {"role": "assistant", "content": "Noon."}])
    assert [m["content"] for m in messages if m["role"] == "assistant"] == ["Let me see.", "", "Noon."]


def test_nothing_of_a_clients_bookkeeping_is_shown() -> None:
    message = {**CHAT[0], "cache_control": {"type": "ephemeral"}, "_meta": {}, "id": "msg_1"}
    assert shown(SPEAKS, [message]) == [CHAT[0]]
    call = {**CALL, "index": 0, "function": {**CALL["function"], "strict": True}}  # type: ignore[dict-item]
    (made,) = shown(SPEAKS, [{**CHAT[1], "tool_calls": [call]}])[0]["tool_calls"]
    assert set(made) == {"id", "type", "function"}
    assert set(made["function"]) == {"name", "arguments"}


def test_results_have_the_name_of_their_function() -> None:
    assert [m.get("name") for m in shown(SPEAKS)] == [None, None, "now", "now"]
