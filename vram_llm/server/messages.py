"""A chat's messages: from what clients send to what templates read."""

from typing import Any

from vram_llm.errors import RequestError
from vram_llm.server.errors import MissingField, NotSupported, UnknownParameter
from vram_llm.server.schemas import Message

_KEPT = ("name", "tool_call_id", "reasoning_content")  # strings that templates know
_NOT_YET = ("tool_calls", "function_call", "audio")
_IGNORED = ("refusal", "annotations")  # come back with our own replies, and say nothing


def template_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """One dict per message for the template: role, content as one string, and what else it has.

    Raises RequestError whose `param` names the place: "messages[2].content".
    """
    return [_template_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _template_message(message: Message, at: str) -> dict[str, Any]:
    role = "tool" if message.role == "function" else message.role
    shown: dict[str, Any] = {"role": role, "content": _text(message, f"{at}.content")}
    for name, value in (message.model_extra or {}).items():
        if value is None or name in _IGNORED:
            continue
        if name in _NOT_YET:
            if value:
                raise NotSupported(f"'{name}' in a message is not supported yet", f"{at}.{name}")
        elif name not in _KEPT:
            raise UnknownParameter(f"Unrecognized field in a message: {name}", f"{at}.{name}")
        elif not isinstance(value, str):
            raise RequestError(f"'{at}.{name}' must be a string", f"{at}.{name}")
        else:
            shown[name] = value
    return shown


def _text(message: Message, at: str) -> str:
    """The text of a message: parts are joined by newlines, as llama.cpp does (common/chat.cpp,
    render_content)."""
    content = message.content
    if isinstance(content, str):
        return content
    if content is None and message.role == "assistant":
        return ""
    if content is None:
        raise MissingField(f"A message of role '{message.role}' needs content at '{at}'", at)
    if not isinstance(content, list) or not content:
        raise RequestError(f"'{at}' must be a string or a list of text parts", at)
    return "\n".join(_part(part, f"{at}[{i}]") for i, part in enumerate(content))


def _part(part: object, at: str) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise RequestError(f"'{at}' must be an object with a 'type'", at)
    if part["type"] != "text":
        raise NotSupported(f"Content of type '{part['type']}' is not supported yet; send text", at)
    if not isinstance(part.get("text"), str):
        raise RequestError(f"'{at}.text' must be a string", f"{at}.text")
    return str(part["text"])
