"""A chat's messages in the shape that one model's template reads.

What comes in is OpenAI's: `tool_calls` of {"id", "type", "function": {"name", "arguments": text}}, answered
by messages of role "tool". What goes out differs with the template.
"""

import json
from typing import Any

from vram_llm.chat.dialect import Dialect
from vram_llm.chat.formats import mistral
from vram_llm.chat.formats.hermes import CLOSE, OPEN
from vram_llm.chat.template import ChatTemplate

Messages = list[dict[str, Any]]
Tools = list[dict[str, Any]]

_PROMPT = """# Tools

These functions can be called, one JSON description per line:
{tools}

To call one, write nothing but this, once for each call:
{open}
{{"name": "the function's name", "arguments": {{"parameter": "value"}}}}
{close}
What it returns comes in the next message. If no function is needed, just answer."""


def shown(messages: Messages, tools: Tools, dialect: Dialect, template: ChatTemplate) -> Messages:
    """`messages` for `template`. Where it speaks no tools, they and their calls become plain text; where it
    takes no system message, that goes before the first of the user's.
    """
    if dialect.takes_tools:
        messages = [_in_its_way(message, dialect, template) for message in messages]
    else:
        messages = _in_words(messages, tools)
    if template.refuses_system:
        messages = _without_system(messages)
    return [_in_parts(message) for message in messages] if template.wants_parts else messages


def _in_its_way(message: dict[str, Any], dialect: Dialect, template: ChatTemplate) -> dict[str, Any]:
    shown = dict(message)
    calls = message.get("tool_calls")
    if calls:
        shown["tool_calls"] = [_call(call, dialect, as_text=template.wants_argument_text) for call in calls]
    if dialect.name == "mistral" and "tool_call_id" in shown:
        shown["tool_call_id"] = mistral.fitting_id(shown["tool_call_id"])
    if dialect.name == "harmony" and (thought := shown.pop("reasoning_content", None)):
        remark = shown["content"] if calls else ""  # beside a call, its template takes one of the two
        shown["thinking"] = f"{thought}\n\n{remark}" if remark else thought
        shown["content"] = "" if calls else shown["content"]
    return shown


def _call(call: dict[str, Any], dialect: Dialect, *, as_text: bool) -> dict[str, Any]:
    function = call["function"]
    if not as_text:
        function = {**function, "arguments": _as_object(function["arguments"])}
    call_id = mistral.fitting_id(call["id"]) if dialect.name == "mistral" else call["id"]
    return {**call, "id": call_id, "function": function}


def _as_object(text: str) -> dict[str, Any]:
    """Arguments as templates read them; what is no object is shown under a name of its own."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": text}


def _in_parts(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _in_words(messages: Messages, tools: Tools) -> Messages:
    out: Messages = []
    for message in messages:
        if message["role"] == "tool":
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            if out and out[-1].get("answers"):
                out[-1]["content"] += f"\n{text}"
            else:
                out.append({"role": "user", "content": text, "answers": True})
        elif calls := message.get("tool_calls"):
            said = [message["content"]] if message["content"] else []
            kept = {name: value for name, value in message.items() if name != "tool_calls"}
            out.append({**kept, "content": "\n".join([*said, *map(_in_tags, calls)])})
        else:
            out.append(dict(message))
    for message in out:
        message.pop("answers", None)
    if tools:
        lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        _instruct(out, _PROMPT.format(tools=lines, open=OPEN, close=CLOSE))
    return out


def _without_system(messages: Messages) -> Messages:
    orders = [m["content"] for m in messages if m["role"] in ("system", "developer")]
    others = [m for m in messages if m["role"] not in ("system", "developer")]
    if orders and others and others[0]["role"] == "user":
        others[0] = {**others[0], "content": "\n\n".join([*orders, others[0]["content"]])}
        return others
    return messages


def _in_tags(call: dict[str, Any]) -> str:
    function = call["function"]
    name = json.dumps(function["name"], ensure_ascii=False)
    return f'{OPEN}\n{{"name": {name}, "arguments": {function["arguments"] or "{}"}}}\n{CLOSE}'


def _instruct(messages: Messages, text: str) -> None:
    first = messages[0]
    if first["role"] in ("system", "developer"):
        first["content"] = f"{first['content']}\n\n{text}"
    else:
        messages.insert(0, {"role": "system", "content": text})
