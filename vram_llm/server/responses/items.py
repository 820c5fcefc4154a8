"""Input items, and how they become a chat's messages."""

from typing import Any

from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported
from vram_llm.server.pictures import Pictures, detail_of

_ROLES = ("system", "developer", "user", "assistant")
_TEXT = ("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text")


def messages_of(given: str | list[Any], pictures: Pictures) -> list[dict[str, Any]]:
    """The messages (see chat.history) that `input` stands for. Raises RequestError that names the place.

    Images of users and of functions' outputs go to `pictures`, and their marks into the text. May block.

    An assistant's thinking, words and calls are items of their own there, and one message here.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for i, item in enumerate(given):
        at = f"input[{i}]"
        if not isinstance(item, dict):
            raise RequestError(f"'{at}' must be an object", at)
        _add(messages, item, at, pictures)
    return messages


def _add(messages: list[dict[str, Any]], item: dict[str, Any], at: str, pictures: Pictures) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        if role not in _ROLES:
            raise RequestError(f"'{at}.role' must be one of {', '.join(_ROLES)}", f"{at}.role")
        content = _text(item.get("content"), f"{at}.content", pictures if role == "user" else None)
        if role == "assistant" and (last := _open(messages)) is not None and not last["content"]:
            last["content"] = content
        else:
            messages.append({"role": role, "content": content})
    elif kind == "function_call":
        name, arguments = _string(item, "name", at), _string(item, "arguments", at)
        call = {
            "id": _string(item, "call_id", at),
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        message = _open(messages) or _begun(messages)
        message.setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        content = _text(item.get("output"), f"{at}.output", pictures)
        messages.append({"role": "tool", "content": content, "tool_call_id": _string(item, "call_id", at)})
    elif kind == "reasoning":
        parts = item.get("content") or item.get("summary")
        if parts:
            _begun(messages)["reasoning_content"] = _text(parts, f"{at}.content")
    else:
        raise NotSupported(f"Items of type '{kind}' are not supported", f"{at}.type")


def _open(messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The assistant's message that is still going on."""
    return messages[-1] if messages and messages[-1]["role"] == "assistant" else None


def _begun(messages: list[dict[str, Any]]) -> dict[str, Any]:
    messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _string(item: dict[str, Any], name: str, at: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise RequestError(f"'{at}.{name}' must be a string", f"{at}.{name}")
    return value


def _text(content: object, at: str, pictures: Pictures | None = None) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"'{at}' must be a string or a list of parts", at)
    if pictures is None:
        return "\n".join(_part(part, f"{at}[{i}]") for i, part in enumerate(content))
    return pictures.joined(
        _image(part, f"{at}[{i}]", pictures)
        if isinstance(part, dict) and part.get("type") == "input_image"
        else _part(part, f"{at}[{i}]")
        for i, part in enumerate(content)
    )


def _image(part: dict[str, Any], at: str, pictures: Pictures) -> str:
    if part.get("file_id") is not None:
        raise NotSupported(f"'{at}.file_id': no files are kept here; send a data: URL", f"{at}.file_id")
    detail_of(part, at)
    return pictures.from_url(part.get("image_url"), f"{at}.image_url")


def _part(part: object, at: str) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise RequestError(f"'{at}' must be an object with a 'type'", at)
    if part["type"] not in _TEXT:
        raise NotSupported(
            f"Content of type '{part['type']}' is not supported here; send text; images only in a user's "
            "message or a function's output",
            at,
        )
    text = part.get("refusal" if part["type"] == "refusal" else "text")
    if not isinstance(text, str):
        raise RequestError(f"'{at}.text' must be a string", f"{at}.text")
    return text
