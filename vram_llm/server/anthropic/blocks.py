"""Converts Anthropic's messages, which are made of blocks, to a chat's messages."""

import json
from collections.abc import Sequence
from typing import Any

from vram_llm.errors import RequestError
from vram_llm.server.anthropic.block_fields import blocks_of, check_keys, check_source, unsupported
from vram_llm.server.anthropic.documents import document, search_result
from vram_llm.server.anthropic.hosted_tools import call_of, is_call, is_result, result_of
from vram_llm.server.anthropic.message import AnthropicMessage
from vram_llm.server.anthropic.signature import thinking_in
from vram_llm.server.errors import MissingField, NotSupported
from vram_llm.server.image_inputs import RequestImages
from vram_llm.server.known_fields import string_field

_READ = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp")  # the last is not Anthropic's
_BILLING = "x-anthropic-billing-header:"  # Claude Code's first block of `system`; it differs each time
_TOOL_CHANGES = ("tool_addition", "tool_removal")  # see tools.sort_tools


def messages_of(system: Any, sent: Sequence[AnthropicMessage], images: RequestImages) -> list[dict[str, Any]]:
    """The messages (see chat.history). Raises RequestError naming the path.

    Images of users and of tools' results go to `images`, and their marks into the text. May block.
    """
    messages: list[dict[str, Any]] = []
    if instructions := _instructions(system, "system"):
        messages.append({"role": "system", "content": instructions})
    last_user = max((i for i, message in enumerate(sent) if message.role == "user"), default=-1)
    for i, message in enumerate(sent):
        at = f"messages[{i}].content"
        if message.content is None and message.role == "user":
            raise MissingField(f"Missing required parameter: '{at}'", at)
        if message.role == "assistant":
            messages += _Assistant(at).read(blocks_of(message.content, at))
        elif message.role == "user":
            messages += _user(blocks_of(message.content, at), at, images)
        elif (instructions := _instructions(message.content, at)) and (
            message.clear_at != "next_user_message" or i > last_user
        ):
            messages.append({"role": "system", "content": instructions})
    return _since_summary(messages)


def _instructions(content: Any, at: str) -> str:
    blocks = enumerate(blocks_of(content, at))
    texts = [_text(block, f"{at}[{i}]") for i, block in blocks if block["type"] not in _TOOL_CHANGES]
    return "\n".join(text for text in texts if text and not text.startswith(_BILLING))


def _user(blocks: list[dict[str, Any]], at: str, images: RequestImages) -> list[dict[str, Any]]:
    """Messages of tools' results, then the user's message."""
    results: list[dict[str, Any]] = []
    texts: list[str] = []
    for i, block in enumerate(blocks):
        where = f"{at}[{i}]"
        if block["type"] == "tool_result":
            check_keys(block, where)
            content = _shown(block.get("content"), f"{where}.content", images)
            if not content and block.get("is_error"):
                content = "error"
            call = string_field(block, "tool_use_id", where)
            results.append({"role": "tool", "content": content, "tool_call_id": call})
        else:
            texts.append(_part(block, where, images))
    message = {"role": "user", "content": images.joined(text for text in texts if text)}
    return results + ([message] if message["content"] or not results else [])


class _Assistant:
    """Reads an assistant's blocks. Results of tools that ran at a server are among them."""

    def __init__(self, at: str) -> None:
        self._at = at
        self._messages: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]

    def read(self, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for i, block in enumerate(blocks):
            self._add(block, f"{self._at}[{i}]")
        return self._messages

    def _add(self, block: dict[str, Any], at: str) -> None:
        kind = block["type"]
        if is_call(kind):
            self._open().setdefault("tool_calls", []).append(call_of(block, at))
            return
        if is_result(kind):
            self._messages.append(result_of(block, at))
            return
        check_keys(block, at)
        message = self._open()
        match kind:
            case "text" if text := string_field(block, "text", at):
                message["content"] = f"{message['content']}\n{text}" if message["content"] else text
            case "thinking" if thought := thinking_in(block, at):
                message["reasoning_content"] = message.get("reasoning_content", "") + thought
            case "tool_use":
                message.setdefault("tool_calls", []).append(_call(block, at))
            case "compaction" if block.get("content"):
                message["content"], message["summary"] = string_field(block, "content", at), True
            case "text" | "thinking" | "redacted_thinking" | "fallback" | "compaction":
                pass  # empty, or not readable here
            case _:
                raise unsupported(block, at)

    def _open(self) -> dict[str, Any]:
        if self._messages[-1]["role"] != "assistant":
            self._messages.append({"role": "assistant", "content": ""})
        return self._messages[-1]


def _since_summary(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages without those that the last summary replaces; system messages stay."""
    summaries = [i for i, message in enumerate(messages) if message.pop("summary", False)]
    if not summaries:
        return messages
    last = summaries[-1]
    return [message for message in messages[:last] if message["role"] == "system"] + messages[last:]


def _call(block: dict[str, Any], at: str) -> dict[str, Any]:
    given = block.get("input", {})
    if not isinstance(given, dict):
        raise RequestError(f"'{at}.input' must be an object", f"{at}.input")
    function = {"name": string_field(block, "name", at), "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": string_field(block, "id", at), "type": "function", "function": function}


def _shown(content: object, at: str, images: RequestImages) -> str:
    """The text of a tool's result, with marks of images."""
    parts = (_part(block, f"{at}[{i}]", images) for i, block in enumerate(blocks_of(content, at)))
    return images.joined(part for part in parts if part)


def _part(block: dict[str, Any], at: str, images: RequestImages) -> str:
    """The text of a block from a user or a tool, or the mark of its image."""
    check_keys(block, at)
    match block["type"]:
        case "text":
            return string_field(block, "text", at)
        case "image":
            return _image(block, at, images)
        case "document":
            return document(block, at, lambda content, where: _shown(content, where, images))
        case "search_result":
            return search_result(block, at, lambda content, where: _shown(content, where, images))
        case "tool_reference":
            return f"Tool found: {string_field(block, 'tool_name', at)}"
    raise unsupported(block, at)


def _image(block: dict[str, Any], at: str, images: RequestImages) -> str:
    at = f"{at}.source"
    source = block.get("source")
    if not isinstance(source, dict):
        raise RequestError(f"'{at}' must be an object", at)
    check_source(source, at)
    match source.get("type"):
        case "base64":
            _check_kind(source.get("media_type"), f"{at}.media_type")
            return images.from_base64(source.get("data"), f"{at}.data")
        case "url":
            return images.from_url(source.get("url"), f"{at}.url", "in a source of type 'base64'")
    raise NotSupported(f"'{at}.type' must be 'base64', or 'url' with a file that is allowed", f"{at}.type")


def _check_kind(kind: object, at: str) -> None:
    if kind is not None and kind not in _READ:
        raise NotSupported(f"'{at}' must be one of {', '.join(_READ)}", at)


def _text(block: dict[str, Any], at: str) -> str:
    check_keys(block, at)
    if block["type"] != "text":
        raise unsupported(block, at)
    return string_field(block, "text", at)
