"""Messages made of blocks, and how they become a chat's messages."""

import json
from typing import Any

from vram_llm.errors import RequestError
from vram_llm.server.anthropic.fields import CountFields
from vram_llm.server.errors import NotSupported
from vram_llm.server.pictures import Pictures

_READ = ("image/png", "image/jpeg", "image/gif", "image/bmp")  # the last is more than Anthropic knows


def messages_of(fields: CountFields, pictures: Pictures) -> list[dict[str, Any]]:
    """The messages (see chat.history). Raises RequestError that names the place.

    Images of users and of tools' results go to `pictures`, and their marks into the text. May block.
    """
    messages: list[dict[str, Any]] = []
    if fields.system:
        messages.append({"role": "system", "content": _text(fields.system, "system")})
    for i, said in enumerate(fields.messages):
        at = f"messages[{i}].content"
        blocks = _blocks(said.content, at)
        messages += _assistant(blocks, at) if said.role == "assistant" else _user(blocks, at, pictures)
    if messages[-1]["role"] == "assistant":
        raise NotSupported(
            "The last message is the assistant's: an answer cannot be begun for the model here", "messages"
        )
    return messages


def _user(blocks: list[dict[str, Any]], at: str, pictures: Pictures) -> list[dict[str, Any]]:
    """What tools returned comes first, then what the user says."""
    results, texts = [], []
    for i, block in enumerate(blocks):
        where = f"{at}[{i}]"
        if block["type"] == "tool_result":
            content = _shown(block.get("content") or "", f"{where}.content", pictures)
            call = _string(block, "tool_use_id", where)
            results.append({"role": "tool", "content": content, "tool_call_id": call})
        elif block["type"] == "text":
            texts.append(_string(block, "text", where))
        elif block["type"] == "image":
            texts.append(_image(block, where, pictures))
        else:
            raise _unsupported(block, where)
    said = {"role": "user", "content": pictures.joined(texts)}
    return results + ([said] if texts or not results else [])


def _assistant(blocks: list[dict[str, Any]], at: str) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for i, block in enumerate(blocks):
        where = f"{at}[{i}]"
        match block["type"]:
            case "text":
                text = _string(block, "text", where)
                message["content"] = f"{message['content']}\n{text}" if message["content"] else text
            case "thinking":
                thought = message.get("reasoning_content", "")
                message["reasoning_content"] = thought + _string(block, "thinking", where)
            case "redacted_thinking":
                pass  # nobody can read it
            case "tool_use":
                message.setdefault("tool_calls", []).append(_call(block, where))
            case _:
                raise _unsupported(block, where)
    return [message]


def _call(block: dict[str, Any], at: str) -> dict[str, Any]:
    given = block.get("input", {})
    if not isinstance(given, dict):
        raise RequestError(f"'{at}.input' must be an object", f"{at}.input")
    function = {"name": _string(block, "name", at), "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": _string(block, "id", at), "type": "function", "function": function}


def _blocks(content: object, at: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise RequestError(f"'{at}' must be a string or a list of blocks", at)
    for i, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise RequestError(f"'{at}[{i}]' must be an object with a 'type'", f"{at}[{i}]")
    return content


def _shown(content: object, at: str, pictures: Pictures) -> str:
    """Text and images."""
    parts = []
    for i, block in enumerate(_blocks(content, at)):
        where = f"{at}[{i}]"
        is_image = block["type"] == "image"
        parts.append(_image(block, where, pictures) if is_image else _text([block], where))
    return pictures.joined(parts)


def _image(block: dict[str, Any], at: str, pictures: Pictures) -> str:
    at = f"{at}.source"
    source = block.get("source")
    if not isinstance(source, dict):
        raise RequestError(f"'{at}' must be an object", at)
    match source.get("type"):
        case "base64":
            _check_kind(source.get("media_type"), f"{at}.media_type")
            return pictures.from_base64(source.get("data"), f"{at}.data")
        case "url":
            return pictures.from_url(source.get("url"), f"{at}.url", "in a source of type 'base64'")
    raise NotSupported(f"'{at}.type' must be 'base64', or 'url' with a file that is allowed", f"{at}.type")


def _check_kind(kind: object, at: str) -> None:
    if kind is not None and kind not in _READ:
        raise NotSupported(f"'{at}' must be one of {', '.join(_READ)}; WebP is not read here", at)


def _text(content: object, at: str) -> str:
    texts = []
    for i, block in enumerate(_blocks(content, at)):
        if block["type"] != "text":
            raise _unsupported(block, f"{at}[{i}]")
        texts.append(_string(block, "text", f"{at}[{i}]"))
    return "\n".join(texts)


def _string(block: dict[str, Any], name: str, at: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise RequestError(f"'{at}.{name}' must be a string", f"{at}.{name}")
    return value


def _unsupported(block: dict[str, Any], at: str) -> NotSupported:
    return NotSupported(f"Blocks of type '{block['type']}' are not supported here", f"{at}.type")
