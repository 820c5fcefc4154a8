"""A chat's messages: from what clients send to what templates read."""

from typing import Any

from vram_llm.errors import RequestError
from vram_llm.server.errors import MissingField, NotSupported, UnknownParameter
from vram_llm.server.pictures import Pictures, detail_of
from vram_llm.server.schemas import Message

_KEPT = ("name", "tool_call_id", "reasoning_content")  # strings that templates know
_NOT_YET = ("function_call", "audio")
_IGNORED = ("refusal", "annotations")  # come back with our own replies, and say nothing


def template_messages(messages: list[Message], pictures: Pictures) -> list[dict[str, Any]]:
    """One dict per message for the template: role, content as one string, and what else it has.

    Images of a user's go to `pictures`, and their marks into the text. May block, for files. Raises
    RequestError whose `param` names the place: "messages[2].content".
    """
    return [_template_message(message, f"messages[{i}]", pictures) for i, message in enumerate(messages)]


def _template_message(message: Message, at: str, pictures: Pictures) -> dict[str, Any]:
    role = "tool" if message.role == "function" else message.role
    shown: dict[str, Any] = {"role": role, "content": _text(message, f"{at}.content", pictures)}
    for name, value in (message.model_extra or {}).items():
        if value is None or name in _IGNORED:
            continue
        if name == "tool_calls":
            if message.role != "assistant":
                raise RequestError("Only an assistant's message has 'tool_calls'", f"{at}.tool_calls")
            shown[name] = _calls(value, f"{at}.tool_calls")
        elif name in _NOT_YET:
            if value:
                raise NotSupported(f"'{name}' in a message is not supported yet", f"{at}.{name}")
        elif name not in _KEPT:
            raise UnknownParameter(f"Unrecognized field in a message: {name}", f"{at}.{name}")
        elif not isinstance(value, str):
            raise RequestError(f"'{at}.{name}' must be a string", f"{at}.{name}")
        else:
            shown[name] = value
    if not shown.get("tool_calls"):
        shown.pop("tool_calls", None)
    return shown


def _calls(calls: object, at: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise RequestError(f"'{at}' must be a list of calls", at)
    return [_call(call, f"{at}[{i}]") for i, call in enumerate(calls)]


def _call(call: object, at: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise RequestError(f"'{at}' must be a call of a function, with an 'id' and a 'function'", at)
    for holder, name in ((call, "id"), (function, "name"), (function, "arguments")):
        if not isinstance(holder.get(name), str):
            where = f"{at}.{name}" if holder is call else f"{at}.function.{name}"
            raise RequestError(f"'{where}' must be a string", where)
    said = {"name": function["name"], "arguments": function["arguments"]}
    return {"id": call["id"], "type": "function", "function": said}


def _text(message: Message, at: str, pictures: Pictures) -> str:
    """The text of a message, with marks where images are."""
    content = message.content
    if isinstance(content, str):
        return content
    if content is None and message.role == "assistant":
        return ""
    if content is None:
        raise MissingField(f"A message of role '{message.role}' needs content at '{at}'", at)
    if not isinstance(content, list) or not content:
        raise RequestError(f"'{at}' must be a string or a list of parts", at)
    may_show = message.role == "user"
    return pictures.joined(
        _image(part, f"{at}[{i}]", pictures)
        if may_show and isinstance(part, dict) and part.get("type") == "image_url"
        else _part(part, f"{at}[{i}]")
        for i, part in enumerate(content)
    )


def _image(part: dict[str, Any], at: str, pictures: Pictures) -> str:
    at = f"{at}.image_url"
    image = part.get("image_url")
    if not isinstance(image, dict):
        raise RequestError(f"'{at}' must be an object with a 'url'", at)
    detail_of(image, at)
    return pictures.from_url(image.get("url"), f"{at}.url")


def _part(part: object, at: str) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise RequestError(f"'{at}' must be an object with a 'type'", at)
    if part["type"] != "text":
        raise NotSupported(
            f"Content of type '{part['type']}' is not supported here; send text; images only in a user's "
            "message",
            at,
        )
    if not isinstance(part.get("text"), str):
        raise RequestError(f"'{at}.text' must be a string", f"{at}.text")
    return str(part["text"])
