"""Converts a chat's messages from the client's form to the form that chat templates read."""

import json
from typing import Any

from vram_llm.errors import RequestError
from vram_llm.server.client_fields import (
    CALL_IGNORED,
    MESSAGE_IGNORED,
    MESSAGE_NEUTRAL,
    PART_IGNORED,
)
from vram_llm.server.errors import MissingField, NotSupported
from vram_llm.server.image_inputs import RequestImages, detail_of
from vram_llm.server.known_fields import check_names, string_field
from vram_llm.server.schemas import Message

_KEPT = ("name", "tool_call_id")  # strings that templates know
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # names that clients give to thinking
_THOUGHT_LISTS = {"reasoning_details": "text", "thinking_blocks": "thinking"}  # OpenRouter's, LiteLLM's
_TEXTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}  # the text field of each type of part
_MAY_BE_EMPTY = ("assistant", "tool", "function")


def template_messages(messages: list[Message], images: RequestImages) -> list[dict[str, Any]]:
    """One dict per message for the template: role, content as one string, thinking and calls.

    A user's images go to `images`, and their marks into the text. May block, for files. Raises RequestError
    whose `param` is the field's path: "messages[2].content".
    """
    return [_template_message(message, f"messages[{i}]", images) for i, message in enumerate(messages)]


def continued_message(message: Message, shown: dict[str, Any]) -> dict[str, Any]:
    """`shown`, the template's form of a message to continue, with its texts as paragraphs.

    Source: llama.cpp, common_chat_msg::render_content.
    """
    parts = message.content if isinstance(message.content, list) else []
    if not parts or any(part["type"] != "text" for part in parts):
        return shown
    return {**shown, "content": "\n\n".join(part["text"] for part in parts)}


def _template_message(message: Message, at: str, images: RequestImages) -> dict[str, Any]:
    role = "tool" if message.role == "function" else message.role
    extra = {name: value for name, value in (message.model_extra or {}).items() if value is not None}
    thoughts = _thoughts(message, extra, at)
    shown: dict[str, Any] = {"role": role, "content": _text(message, f"{at}.content", images)}
    if not shown["content"] and isinstance(refusal := extra.get("refusal"), str):
        shown["content"] = refusal
    for name in _KEPT:
        if name in extra:
            shown[name] = string_field(extra, name, at)
            del extra[name]
    if "tool_name" in extra:  # Ollama's
        shown.setdefault("name", string_field(extra, "tool_name", at))
        del extra["tool_name"]
    calls = _calls(extra.pop("tool_calls", None), extra.pop("function_call", None), at)
    if calls and message.role != "assistant":
        raise RequestError("Only an assistant's message has 'tool_calls'", f"{at}.tool_calls")
    if calls:
        shown["tool_calls"] = calls
    if thoughts:
        shown["reasoning_content"] = thoughts
    check_names(extra, at, MESSAGE_IGNORED, MESSAGE_NEUTRAL)
    return shown


def _thoughts(message: Message, extra: dict[str, Any], at: str) -> str:
    """The thinking of a message, under any of its names. Removes those names from `extra`."""
    texts = [string_field(extra, name, at) for name in _THOUGHTS if name in extra]
    for name in _THOUGHTS:
        extra.pop(name, None)
    if isinstance(message.content, list):
        for i, part in enumerate(message.content):
            if isinstance(part, dict) and part.get("type") in ("thinking", "reasoning"):
                texts.append(_thought_part(part, f"{at}.content[{i}]"))
    texts += [_listed(extra.get(name), field) for name, field in _THOUGHT_LISTS.items()]
    return next((text for text in texts if text), "")


def _listed(items: object, field: str) -> str:
    """The text in a client's list of thinking pieces. Pieces without text are skipped."""
    values = [item.get(field) for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return "".join(text for text in values if isinstance(text, str))


def _thought_part(part: dict[str, Any], at: str) -> str:
    """The text of a thinking part: a string, or a list of text parts (Mistral's)."""
    check_names(_left(part, "type", "text", part["type"]), at, PART_IGNORED | {"closed", "summary", "format"})
    value = part.get(part["type"], part.get("text", ""))
    if isinstance(value, list):
        return "".join(_part(inner, f"{at}.{part['type']}[{i}]") for i, inner in enumerate(value))
    if not isinstance(value, str):
        raise RequestError(f"'{at}.{part['type']}' must be a string", f"{at}.{part['type']}")
    return value


def _calls(calls: object, function_call: object, at: str) -> list[dict[str, Any]]:
    """The calls of a message. `function_call` is the older form of a single call."""
    if function_call and not calls:
        if not isinstance(function_call, dict):
            raise RequestError(f"'{at}.function_call' must be an object", f"{at}.function_call")
        return [_call({"id": "call_0", "function": function_call}, f"{at}.function_call", "")]
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise RequestError(f"'{at}.tool_calls' must be a list of calls", f"{at}.tool_calls")
    numbered = [
        {**call, "id": f"call_{i}"} if isinstance(call, dict) and call.get("id") is None else call
        for i, call in enumerate(calls)
    ]
    return [_call(call, f"{at}.tool_calls[{i}]", ".function") for i, call in enumerate(numbered)]


def _call(call: object, at: str, within: str) -> dict[str, Any]:
    """One call at path `at`; `within` is the rest of its function's path."""
    if isinstance(call, dict) and call.get("type") == "custom" and isinstance(call.get("custom"), dict):
        own = call["custom"]
        check_names(_left(call, "id", "custom"), at, CALL_IGNORED)
        check_names(_left(own, "name", "input"), f"{at}.custom", CALL_IGNORED)
        arguments = {"input": own.get("input", "")}
        call = {"id": call.get("id"), "function": {"name": own.get("name"), "arguments": arguments}}
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise RequestError(f"'{at}' must be a call of a function, with an 'id' and a 'function'", at)
    check_names(_left(call, "id", "function"), at, CALL_IGNORED)
    check_names(_left(function, "name", "arguments"), f"{at}{within}", CALL_IGNORED)
    own_call = {
        "name": string_field(function, "name", f"{at}{within}"),
        "arguments": _arguments(function, at + within),
    }
    return {"id": string_field(call, "id", at), "type": "function", "function": own_call}


def _arguments(function: dict[str, Any], at: str) -> str:
    """The JSON text of a call's arguments. Some clients send an object, or nothing."""
    value = function.get("arguments")
    if value is None:
        return "{}"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str):
        raise RequestError(f"'{at}.arguments' must be the text of a JSON object", f"{at}.arguments")
    return value


def _text(message: Message, at: str, images: RequestImages) -> str:
    """The text of a message, with marks where images are."""
    content = message.content
    if isinstance(content, str):
        return content
    if not content and content in (None, []) and message.role in _MAY_BE_EMPTY:
        return ""
    if content is None:
        raise MissingField(f"A message of role '{message.role}' needs content at '{at}'", at)
    if not isinstance(content, list) or not content:
        raise RequestError(f"'{at}' must be a string or a list of parts", at)
    shown = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if message.role == "user" and kind == "image_url":
            shown.append(image_mark(part, f"{at}[{i}]", images))
        elif message.role == "user" and kind in ("input_audio", "audio_url"):
            shown.append(audio_mark(part, kind, f"{at}[{i}]", images))
        elif message.role != "assistant" or kind not in ("thinking", "reasoning"):
            shown.append(_part(part, f"{at}[{i}]"))
    return images.joined(shown)


def image_mark(part: dict[str, Any], at: str, images: RequestImages) -> str:
    """The mark of an `image_url` part. Raises RequestError."""
    check_names(_left(part, "type", "image_url"), at, PART_IGNORED)
    at = f"{at}.image_url"
    image = part.get("image_url")
    if isinstance(image, str):  # Mistral's
        return images.from_url(image, at)
    if not isinstance(image, dict):
        raise RequestError(f"'{at}' must be an object with a 'url'", at)
    check_names(_left(image, "url", "detail"), at, PART_IGNORED | {"format"})
    detail_of(image, at)
    return images.from_url(image.get("url"), f"{at}.url")


def audio_mark(part: dict[str, Any], kind: str, at: str, images: RequestImages) -> str:
    """The mark of OpenAI's `input_audio`, whose `format` the file itself tells, or vLLM's `audio_url`."""
    check_names(_left(part, "type", kind), at, PART_IGNORED)
    at, audio = f"{at}.{kind}", part.get(kind)
    if not isinstance(audio, dict):
        raise RequestError(f"'{at}' must be an object with the audio file", at)
    name = "data" if kind == "input_audio" else "url"
    check_names(_left(audio, name, "format"), at, PART_IGNORED)
    return images.from_audio(audio.get(name), f"{at}.{name}")


def _part(part: object, at: str) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise RequestError(f"'{at}' must be an object with a 'type'", at)
    field = _TEXTS.get(part["type"])
    if field is None:
        raise NotSupported(
            f"Content of type '{part['type']}' is not supported here; send text; images and sound only in a "
            "user's message",
            at,
        )
    check_names(_left(part, "type", field), at, PART_IGNORED)
    return string_field(part, field, at)


def _left(holder: dict[str, Any], *read: str) -> dict[str, Any]:
    """The fields of `holder` that are not in `read`."""
    return {name: value for name, value in holder.items() if name not in read}
