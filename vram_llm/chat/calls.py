"""Earlier tool calls, in the form that a chat template shows."""

import json
from collections.abc import Iterator
from typing import Any

from vram_llm.chat.dialect import Dialect
from vram_llm.chat.formats.table import HERMES
from vram_llm.chat.template_caps import TemplateCaps

Messages = list[dict[str, Any]]


def calls_for_template(messages: Messages, caps: TemplateCaps) -> Messages:
    """`messages` with the assistant's calls in the form that the template shows.

    If the template does not show a message's content with its calls, the content becomes a message before
    them.
    """
    if not caps.content_with_calls:
        messages = list(_words_first(messages, apart=caps.content_before_calls))
    return [_call_shape(message, caps) if message.get("tool_calls") else message for message in messages]


def calls_as_text(messages: Messages, dialect: Dialect) -> Messages:
    """`messages` with the assistant's calls at the end of its content, as the model writes them."""
    return [_written_out(message, dialect) if message.get("tool_calls") else message for message in messages]


def one_call_per_message(messages: Messages) -> Iterator[dict[str, Any]]:
    """Messages of one call each in place of messages of several; every call comes before its result."""
    several: dict[str, Any] | None = None  # the message of several calls, whose results follow
    results: Messages = []
    for message in messages:
        if several is not None and message["role"] == "tool":
            results.append(message)
            continue
        if several is not None:
            yield from _each_with_result(several, results)
        several, results = (message if len(message.get("tool_calls", ())) > 1 else None), []
        if several is None:
            yield message
    if several is not None:
        yield from _each_with_result(several, results)


def _each_with_result(message: dict[str, Any], results: Messages) -> Iterator[dict[str, Any]]:
    """Each call of `message` as a message, then its results; results of other calls come last."""
    by_call: dict[str | None, Messages] = {}
    for result in results:
        by_call.setdefault(result.get("tool_call_id"), []).append(result)
    for number, call in enumerate(message["tool_calls"]):
        bare = {"role": message["role"], "content": "", "tool_calls": [call]}
        yield bare if number else {**message, "tool_calls": [call]}
        yield from by_call.pop(call["id"], ())
    yield from (result for others in by_call.values() for result in others)


def _words_first(messages: Messages, *, apart: bool) -> Iterator[dict[str, Any]]:
    """Move an assistant's text before its calls.

    `apart`: the text may be a message of its own. Otherwise the assistant's texts between two user messages
    become one message, since the template refuses two.
    """
    run: Messages = []  # from one message of the user's to the next
    for message in [*messages, {"role": ""}]:
        if message["role"] in ("assistant", "tool"):
            run.append(message)
            continue
        yield from _apart(run) if apart else _at_once(run)
        run = []
        if message["role"]:
            yield message


def _apart(run: Messages) -> Iterator[dict[str, Any]]:
    for message in run:
        if message.get("tool_calls") and message["content"]:
            yield {"role": "assistant", "content": message["content"]}
            message = {**message, "content": ""}
        yield message


def _at_once(run: Messages) -> Iterator[dict[str, Any]]:
    answer = run[-1] if run and run[-1]["role"] == "assistant" and not run[-1].get("tool_calls") else None
    words = "\n\n".join(m["content"] for m in run if m["role"] == "assistant" and m["content"])
    if words and answer is None:
        yield {"role": "assistant", "content": words}
    for message in run:
        if message is answer:
            yield {**message, "content": words}
        elif message.get("tool_calls"):
            yield {**message, "content": ""}
        elif message["role"] == "tool":
            yield message


def _call_shape(message: dict[str, Any], caps: TemplateCaps) -> dict[str, Any]:
    calls = message["tool_calls"]
    if not caps.requires_text_arguments:
        calls = [
            {**c, "function": {**c["function"], "arguments": _as_object(c["function"]["arguments"])}}
            for c in calls
        ]
    content = message["content"] or (None if caps.requires_null_content else "")
    return {**message, "content": content, "tool_calls": calls}


def _as_object(text: str) -> dict[str, Any]:
    """Arguments in the form of templates. A text that is not an object becomes {"arguments": text}."""
    value = object_in(text or "{}")
    return {"arguments": text} if value is None else value


def object_in(text: str) -> dict[str, Any] | None:
    """The object of a JSON text; None if it is not an object, or has a string that is not Unicode text."""
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # raises for half of a surrogate pair
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _written_out(message: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    kept = {name: value for name, value in message.items() if name != "tool_calls"}
    functions = [call["function"] for call in message["tool_calls"]]
    calls = [(f["name"], _object_text(f["arguments"])) for f in functions]
    text = dialect.form.calls_text(calls) or HERMES.calls_text(calls)
    return {**kept, "content": "\n".join(filter(None, [message["content"], text]))}


def _object_text(text: str) -> str:
    value = _as_object(text)
    return json.dumps(value, ensure_ascii=False) if value == {"arguments": text} else text or "{}"
