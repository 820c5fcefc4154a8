"""Writes a message while it is generated: its blocks, and its events."""

from typing import Annotated, Any, Literal
from uuid import uuid4

import msgspec
from pydantic import BaseModel

from vram_llm.chat.calls import object_in
from vram_llm.chat.events import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Event,
    Reasoning,
    UnopenedThinking,
)
from vram_llm.server.anthropic.errors import anthropic_body
from vram_llm.server.anthropic.signature import signature_of
from vram_llm.server.parsed_stream import ParsedChunk
from vram_llm.server.replies import PRESENT, ChatEnding, UsageCounter

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
_REASONS: dict[ChatEnding, StopReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}
_encode = msgspec.json.encode


class ThinkingTokens(BaseModel):
    """The output's tokens of thinking."""

    thinking_tokens: int = 0


class CacheCreation(BaseModel):
    """Tokens written to Anthropic's caches, by how long they stay there."""

    ephemeral_1h_input_tokens: int = 0
    ephemeral_5m_input_tokens: int = 0


class ServerToolUse(BaseModel):
    """Calls of tools that Anthropic runs."""

    web_fetch_requests: int = 0
    web_search_requests: int = 0


class MessageUsage(BaseModel):
    """Tokens of one message. Prompt tokens computed for an earlier message are counted separately."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: CacheCreation = CacheCreation()
    output_tokens_details: ThinkingTokens = ThinkingTokens()
    server_tool_use: ServerToolUse = ServerToolUse()
    inference_geo: str = "not_available"
    service_tier: Literal["standard"] = "standard"
    dropped_messages: Annotated[int | None, PRESENT] = None  # to fit the context, if that was asked for


class MessageReply(BaseModel):
    """The reply to POST /v1/messages.

    @ai-sdk/anthropic refuses a null for an optional key of its schema; llm-comply wants every key of
    Anthropic's schema. A null is sent only if both accept it.
    """

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[dict[str, Any]] = []
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    stop_details: None = None
    container: None = None
    usage: MessageUsage
    context_management: Annotated[dict[str, Any] | None, PRESENT] = None
    warnings: Annotated[list[str] | None, PRESENT] = None  # tools that were left out


class AnthropicTokenCount(BaseModel):
    """The reply to POST /v1/messages/count_tokens."""

    input_tokens: int
    context_management: Annotated[dict[str, int] | None, PRESENT] = None


class MessageWriter:
    """Builds `reply` from parsed chunks. Its bytes are the stream; without a stream they are ignored."""

    def __init__(
        self,
        model: str,
        counter: UsageCounter,
        *,
        shows_thinking: bool = True,
        context_management: dict[str, Any] | None = None,
        warnings: list[str] | None = None,
    ) -> None:
        self.reply = MessageReply(
            id=f"msg_{uuid4().hex}",
            model=model,
            usage=MessageUsage(input_tokens=0, output_tokens=0, dropped_messages=counter.dropped_messages),
            context_management=context_management,
            warnings=warnings or None,
        )
        self._tally = counter
        self._shows_thinking = shows_thinking
        self._thought = ""  # thinking of the open block
        self._begun = False
        self._open = False  # whether the last block is open
        self._input = ""  # of a tool_use block, as the model writes it

    def opening(self) -> bytes:
        return b""  # message_start holds the prompt's tokens, which come with the first token's event

    def event(self, index: int, item: ParsedChunk) -> bytes:
        if item.token.prompt_done is not None:
            return b""
        written = b""
        if not self._begun:
            self._begun = True
            cached = item.token.cached_tokens
            self.reply.usage.input_tokens = item.token.prompt_tokens - cached
            self.reply.usage.cache_read_input_tokens = cached
            written = _event("message_start", message=self.reply.model_dump()) + _event("ping")
        written += b"".join(self._piece(event) for event in item.events)
        if item.ending is not None:
            self._tally.add(index, item.token, item.reasoning_tokens)
            self.reply.stop_reason = _REASONS[item.ending]
            if item.token.stop is not None and item.ending == "stop":
                self.reply.stop_reason, self.reply.stop_sequence = "stop_sequence", item.token.stop
        return written

    def closing(self) -> bytes:
        written = self._close()
        usage = self._tally.usage()
        cached = usage.prompt_tokens_details.cached_tokens
        self.reply.usage = MessageUsage(
            input_tokens=usage.prompt_tokens - cached,
            output_tokens=usage.completion_tokens,
            cache_read_input_tokens=cached,
            dropped_messages=self._tally.dropped_messages,
            output_tokens_details=ThinkingTokens(
                thinking_tokens=usage.completion_tokens_details.reasoning_tokens
            ),
        )
        ending = {"stop_reason": self.reply.stop_reason, "stop_sequence": self.reply.stop_sequence}
        more = (
            {}
            if self.reply.context_management is None
            else {"context_management": self.reply.context_management}
        )
        written += _event("message_delta", delta=ending, usage=self.reply.usage.model_dump(), **more)
        return written + _event("message_stop")

    def failure(self, error: Exception) -> bytes:
        return b"event: error\ndata: " + _encode(anthropic_body(error)) + b"\n\n"

    def _piece(self, event: Event) -> bytes:
        match event:
            case Content(text):
                return self._text(text, "text", "text_delta")
            case Reasoning(text):
                return self._thinking(text)
            case CallStart(_, call_id, name):
                called = {"id": call_id, "name": name, "input": {}, "caller": {"type": "direct"}}
                return self._start({"type": "tool_use", **called})
            case CallArguments(_, text):
                self._input += text
                return self._delta(type="input_json_delta", partial_json=text)
            case CallEnd():
                return self._close()
            case UnopenedThinking():
                return b""

    def _text(self, text: str, kind: str, delta: str) -> bytes:
        written = b""
        if not self._is_open(kind):
            written = self._start({"type": kind, kind: "", **({"citations": []} if kind == "text" else {})})
        self.reply.content[-1][kind] += text
        return written + self._delta(**{"type": delta, kind: text})

    def _thinking(self, text: str) -> bytes:
        written = b""
        if not self._is_open("thinking"):
            written = self._start({"type": "thinking", "thinking": "", "signature": ""})
            self._thought = ""
        self._thought += text
        return written + self._text(text, "thinking", "thinking_delta") if self._shows_thinking else written

    def _is_open(self, kind: str) -> bool:
        return self._open and bool(self.reply.content[-1]["type"] == kind)

    def _start(self, block: dict[str, Any]) -> bytes:
        written = self._close()
        self._open = True
        self._input = ""
        written += _event("content_block_start", index=len(self.reply.content), content_block=block)
        self.reply.content.append(block)
        return written

    def _delta(self, **delta: str) -> bytes:
        return _event("content_block_delta", index=len(self.reply.content) - 1, delta=delta)

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = False
        block = self.reply.content[-1]
        written = b""
        if block["type"] == "tool_use":
            block["input"] = _object(self._input)
        elif block["type"] == "thinking":
            block["signature"] = signature_of(self._thought, shown=self._shows_thinking)
            written = self._delta(type="signature_delta", signature=block["signature"])
        return written + _event("content_block_stop", index=len(self.reply.content) - 1)


def _object(text: str) -> dict[str, Any]:
    """A call's input. A text that is not an object gets Anthropic's form for incomplete input."""
    value = object_in(text or "{}")
    return {"INVALID_JSON": text} if value is None else value


def _event(kind: str, **what: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _encode({"type": kind, **what}) + b"\n\n"
