"""Converts input items to a chat's messages."""

from collections.abc import Callable
from typing import Any

from vram_llm.errors import RequestError
from vram_llm.server.encoded_thinking import decode_thinking
from vram_llm.server.errors import NotSupported
from vram_llm.server.image_inputs import RequestImages
from vram_llm.server.known_fields import check_names, string_field
from vram_llm.server.responses.calls import call_in, hosted_in, output_of
from vram_llm.server.responses.item_fields import check_item
from vram_llm.server.responses.parts import text_of

Find = Callable[[str], dict[str, Any] | None]  # finds a stored item by its id
_ROLES = ("system", "developer", "user", "assistant")
_SKIPPED = (  # not for the model, or readable only by OpenAI's server
    "additional_tools",
    "configuration_update",
    "compaction_trigger",
    "context_compaction",
    "ghost_snapshot",
    "image_generation_call",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_list_tools",
    "program",
    "program_output",
    "web_search_call",
)
_COMPACTED = ("compaction", "compaction_summary")


def messages_of(
    given: str | list[Any], images: RequestImages, find: Find
) -> tuple[list[dict[str, Any]], list[str]]:
    """The messages (see chat.history) of `input`, and a sentence for each item that cannot be read.

    Raises RequestError naming the path. Images of users and of functions' outputs go to `images`, and their
    marks into the text. May block.

    An assistant's thinking, text and calls are separate items there, and one message here.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}], []
    chat = _ChatBuilder(images)
    for i, item in enumerate(given):
        at = f"input[{i}]"
        if not isinstance(item, dict):
            raise RequestError(f"'{at}' must be an object", at)
        chat.add(_resolved(item, at, find), at)
    return chat.messages, chat.unread


def _resolved(item: dict[str, Any], at: str, find: Find) -> dict[str, Any]:
    """The item itself, or the stored item that it refers to."""
    kind = item.get("type")
    if kind is not None and not isinstance(kind, str):
        raise RequestError(f"'{at}.type' must be a string", f"{at}.type")
    if kind != "item_reference" and (kind is not None or set(item) - {"type"} != {"id"}):
        return {**item, "type": kind or "message"}
    check_names(item, at, frozenset({"id", "type"}))
    item_id = string_field(item, "id", at)
    kept = find(item_id)
    if kept is None:
        raise RequestError(
            f"'{at}' refers to the item '{item_id}', which was not stored, or is forgotten; send the item "
            "itself",
            f"{at}.id",
        )
    return kept


class _ChatBuilder:
    """The messages so far, and the items that could not be read."""

    def __init__(self, images: RequestImages) -> None:
        self.messages: list[dict[str, Any]] = []
        self.unread: list[str] = []
        self._images = images

    def add(self, item: dict[str, Any], at: str) -> None:
        """Add an item. Raises RequestError."""
        kind = item["type"]
        check_item(item, at)
        if kind == "message":
            self._message(item, at)
        elif kind == "reasoning":
            self._reasoning(item, at)
        elif kind == "agent_message":
            self._agent_message(item, at)
        elif (call := call_in(item, at)) is not None:
            self._call(call)
        elif (output := output_of(item, at, self._images)) is not None:
            self.messages.append(output)
        elif (hosted := hosted_in(item, at)) is not None:
            call, result = hosted
            self._call(call)
            self.messages.append(result)
        elif kind in _COMPACTED:
            self._compacted(item, at)
        elif kind not in _SKIPPED:
            raise NotSupported(f"Items of type '{kind}' are not supported", f"{at}.type")

    def _message(self, item: dict[str, Any], at: str) -> None:
        role, content = item.get("role"), item.get("content")
        if role not in _ROLES:
            raise RequestError(f"'{at}.role' must be one of {', '.join(_ROLES)}", f"{at}.role")
        if content is None and role == "assistant":
            content = ""
        text = text_of(content, f"{at}.content", self._images if role == "user" else None)
        last = self._open()
        if role == "assistant" and last is not None and not last["content"]:
            last["content"] = text
        else:
            self.messages.append({"role": role, "content": text})

    def _reasoning(self, item: dict[str, Any], at: str) -> None:
        """Read its content, else its encoded thinking, else its summary. Another server's is ignored."""
        parts = item.get("content")
        thought = text_of(parts, f"{at}.content") if parts else decode_thinking(item.get("encrypted_content"))
        if not thought and (parts := item.get("summary")):
            thought = text_of(parts, f"{at}.summary")
        if thought:
            self._begun()["reasoning_content"] = thought

    def _agent_message(self, item: dict[str, Any], at: str) -> None:
        """Add a message from another agent of the client's (Codex)."""
        parts = item.get("content") or ""
        readable = [p for p in parts if not _is_encrypted(p)] if isinstance(parts, list) else parts
        names = " ".join(f"{name}={item[name]}" for name in ("author", "recipient") if item.get(name))
        text = text_of(readable, f"{at}.content", self._images)
        self.messages.append({"role": "user", "content": f"[message {names}]\n{text}" if names else text})

    def _compacted(self, item: dict[str, Any], at: str) -> None:
        if summary := decode_thinking(item.get("encrypted_content")):
            self.messages.append({"role": "user", "content": summary})
        else:
            self.unread.append(f"'{at}' is a summary that only the server that made it can read")

    def _call(self, call: dict[str, Any]) -> None:
        (self._open() or self._begun()).setdefault("tool_calls", []).append(call)

    def _open(self) -> dict[str, Any] | None:
        """The assistant's message, if it is the last one."""
        return self.messages[-1] if self.messages and self.messages[-1]["role"] == "assistant" else None

    def _begun(self) -> dict[str, Any]:
        self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]


def _is_encrypted(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "encrypted_content"
