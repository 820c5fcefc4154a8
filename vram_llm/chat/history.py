"""A chat's messages in the form that one model's template reads.

The input is OpenAI's form: `tool_calls` of {"id", "type", "function": {"name", "arguments": text}}, answered
by messages of role "tool". The output depends on the template.
"""

import json
from typing import Any

from vram_llm.chat.calls import calls_as_text, calls_for_template, one_call_per_message
from vram_llm.chat.dialect import Dialect
from vram_llm.chat.formats.call_format import CallFormat
from vram_llm.chat.formats.hermes import CLOSE, OPEN
from vram_llm.chat.system_messages import SystemPlacement, place_system_messages
from vram_llm.chat.template import ChatTemplate

Messages = list[dict[str, Any]]
Tools = list[dict[str, Any]]

_KEPT = (
    "role",
    "content",
    "name",
    "tool_call_id",
    "tool_calls",
    "reasoning_content",
)  # no other fields of a client's
_PROMPT = """# Tools

These functions can be called, one JSON description per line:
{tools}

To call one, write nothing but this, once for each call:
{open}
{{"name": "the function's name", "arguments": {{"parameter": "value"}}}}
{close}
What it returns comes in the next message. If no function is needed, just answer."""


def messages_for_template(
    messages: Messages,
    tools: Tools,
    dialect: Dialect,
    template: ChatTemplate,
    placement: SystemPlacement = SystemPlacement.IN_PLACE,
) -> Messages:
    """`messages` in the form for `template`.

    Tools, calls and results that it does not show are written as text. `placement` decides where system and
    developer messages go.
    """
    caps = template.caps
    messages = _named([_bare(message) for message in messages])
    if not caps.empty_answers:
        messages = [m for m in messages if m["role"] != "assistant" or m["content"] or m.get("tool_calls")]
    if tools and not dialect.takes_tools:
        messages = _instructed(messages, tools)
    if dialect.name == "harmony":
        messages = _harmony(messages)
    messages = _with_fitting_ids(messages, dialect.form)
    native = dialect.takes_tools and caps.calls
    if not (dialect.takes_tools and caps.results):
        messages = _results_as_text(messages, lone=False)
    elif not caps.results_without_calls:
        messages = _results_as_text(messages, lone=True)
    if not native:
        messages = calls_as_text(messages, dialect)
    elif not caps.parallel_calls:
        messages = list(one_call_per_message(messages))
    messages = place_system_messages(messages, caps, placement)
    if native:
        messages = calls_for_template(messages, caps)
    if dialect.thinking is not None and dialect.name != "harmony":
        messages = [_thought_over(message, dialect.thinking.field) for message in messages]
    return [_in_parts(message) for message in messages] if caps.requires_typed_content else messages


def _bare(message: dict[str, Any]) -> dict[str, Any]:
    """A message without the fields that a client keeps for itself."""
    bare = {name: message[name] for name in _KEPT if name in message}
    if calls := bare.pop("tool_calls", None):
        functions = [{name: call["function"][name] for name in ("name", "arguments")} for call in calls]
        bare["tool_calls"] = [
            {"id": call["id"], "type": "function", "function": function}
            for call, function in zip(calls, functions, strict=True)
        ]
    return bare


def _named(messages: Messages) -> Messages:
    """Results with the names of their functions, which some templates show (Command R, Gemma)."""
    names = {call["id"]: call["function"]["name"] for m in messages for call in m.get("tool_calls", ())}
    return [
        {"name": names[m["tool_call_id"]], **m}
        if m["role"] == "tool" and m.get("tool_call_id") in names
        else m
        for m in messages
    ]


def _harmony(messages: Messages) -> Messages:
    """Thinking in the field that gpt-oss's template reads.

    The template shows either the thinking or the content of a message with calls, and neither once an answer
    follows. The content joins the thinking as long as that is shown; later it stays in `content`.
    """
    out: Messages = []
    answered = False
    for message in reversed(messages):
        message = dict(message)
        thought = message.pop("reasoning_content", None)
        if message["role"] == "assistant" and message.get("tool_calls") and not answered:
            thought = "\n\n".join(filter(None, (thought, message["content"])))
            message["content"] = ""
        elif message["role"] == "assistant" and not message.get("tool_calls"):
            answered = True
        out.append({**message, "thinking": thought} if thought else message)
    return out[::-1]


def _thought_over(message: dict[str, Any], field: str) -> dict[str, Any]:
    """A message with its thinking in the `field` that the template reads (see ThinkingMarks)."""
    if field in ("", "reasoning_content") or not message.get("reasoning_content"):
        return message
    kept = {name: value for name, value in message.items() if name != "reasoning_content"}
    thought = message["reasoning_content"]
    if field != "content":
        return {**kept, field: thought}
    text = [{"type": "text", "text": message["content"]}] if message["content"] else []
    return {**kept, "content": [{"type": "thinking", "thinking": thought}, *text]}


def _with_fitting_ids(messages: Messages, form: CallFormat) -> Messages:
    """Ids in the template's form, the same for a call and its result."""
    out: Messages = []
    fitting: dict[str, str] = {}
    n_calls = 0
    for message in messages:
        message = dict(message)
        if calls := message.get("tool_calls"):
            for call in calls:
                fitting[call["id"]] = form.fitting_id(call["id"], call["function"]["name"], n_calls)
                n_calls += 1
            message["tool_calls"] = [{**call, "id": fitting[call["id"]]} for call in calls]
        if given := message.get("tool_call_id"):
            message["tool_call_id"] = fitting.get(given) or form.fitting_id(given, "unknown", n_calls)
        out.append(message)
    return out


def _results_as_text(messages: Messages, *, lone: bool) -> Messages:
    """Results as user messages; with `lone`, only results that follow no calls."""
    out: Messages = []
    texts: list[str] = []  # of results in a row
    called = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result and not (lone and called):
            texts.append(f"<tool_response>\n{message['content']}\n</tool_response>")
            continue
        if texts:
            out.append({"role": "user", "content": "\n".join(texts)})
            texts = []
        out.append(message)
        called = called if is_result else bool(message.get("tool_calls"))
    return [*out, {"role": "user", "content": "\n".join(texts)}] if texts else out


def _instructed(messages: Messages, tools: Tools) -> Messages:
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    text = _PROMPT.format(tools=lines, open=OPEN, close=CLOSE)
    if messages and messages[0]["role"] in ("system", "developer"):
        first, *others = messages
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *others]
    return [{"role": "system", "content": text}, *messages]


def _in_parts(message: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(message["content"], str):
        return message
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
