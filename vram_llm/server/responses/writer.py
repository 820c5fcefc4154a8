"""Writes a response while it is generated: its items, and its events."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import msgspec

from vram_llm.chat.events import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Event,
    Reasoning,
    UnopenedThinking,
)
from vram_llm.server.custom_tools import CustomInputReader
from vram_llm.server.encoded_thinking import encode_thinking
from vram_llm.server.errors import error_body, error_kind
from vram_llm.server.logprobs import chat_logprobs
from vram_llm.server.parsed_stream import ParsedChoice, ParsedChunk
from vram_llm.server.replies import UsageCounter
from vram_llm.server.responses.response_object import (
    IncompleteDetails,
    ResponseFailure,
    ResponseObject,
    response_usage,
)
from vram_llm.server.responses.tools import ClientToolName

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class _PartType:
    """The place of a part in its item, and the names of its events, for one type of part."""

    holder: str
    part: str
    text: str
    index: str


_FORMS = {
    "output_text": _PartType("content", "content_part", "output_text", "content_index"),
    "reasoning_text": _PartType("content", "content_part", "reasoning_text", "content_index"),
    "summary_text": _PartType("summary", "reasoning_summary_part", "reasoning_summary_text", "summary_index"),
}


class ResponseWriter:
    """Builds `response` from parsed chunks. Its bytes are the stream; without a stream they are ignored.

    `on_end` gets the complete response and its answer. `clock` gives Unix seconds. `client_names` has the
    client's names of tools, by the names that the model sees. `sends_encoded_thinking`: thinking is also sent
    in a form for the client to pass back. `sends_summary`: the whole thinking is sent as its summary.
    """

    def __init__(
        self,
        response: ResponseObject,
        counter: UsageCounter,
        clock: Callable[[], float],
        on_end: Callable[[ResponseObject, ParsedChoice], None],
        client_names: Mapping[str, ClientToolName] = MappingProxyType({}),
        *,
        sends_encoded_thinking: bool = False,
        sends_summary: bool = False,
    ) -> None:
        self.response = response
        self._client_names = client_names
        self._sends_encoded_thinking, self._sends_summary = sends_encoded_thinking, sends_summary
        self._text_reader = CustomInputReader()  # of the open custom_tool_call
        self._logprobs: list[dict[str, Any]] = []  # of the tokens of the next text
        self._tally = counter
        self._clock = clock
        self._on_end = on_end
        self._answer = ParsedChoice()
        self._item: dict[str, Any] | None = None  # the open item, last in the output
        self._sequence = 0

    def opening(self) -> bytes:
        return self._event("response.created", response=self._snapshot()) + self._event(
            "response.in_progress", response=self._snapshot()
        )

    def progress(self, report: dict[str, Any]) -> bytes:
        """llama-server's `prompt_progress`."""
        return self._event("response.in_progress", response=self._snapshot(), prompt_progress=report)

    def event(self, index: int, item: ParsedChunk) -> bytes:
        if item.token.logprobs:
            self._logprobs += [token.model_dump() for token in chat_logprobs(item.token.logprobs).content]
        written = b"".join(self._piece(event) for event in item.events)
        self._answer.add(item.events)
        if item.ending is not None:
            cut = item.ending == "length"
            written += self._close("incomplete" if cut else "completed")
            self._tally.add(index, item.token, item.reasoning_tokens)
            self.response.status = "incomplete" if cut else "completed"
            self.response.incomplete_details = IncompleteDetails(reason="max_output_tokens") if cut else None
        return written

    def closing(self) -> bytes:
        self.response.completed_at = int(self._clock()) if self.response.status == "completed" else None
        self.response.usage = response_usage(self._tally.usage())
        self._on_end(self.response, self._answer)
        return self._event(f"response.{self.response.status}", response=self._snapshot())

    def failure(self, error: Exception) -> bytes:
        written = self._close("incomplete")
        code = "rate_limit_exceeded" if error_kind(error).status == 429 else "server_error"
        self.response.status = "failed"
        self.response.error = ResponseFailure(code=code, message=error_body(error)["error"]["message"])
        return written + self._event("response.failed", response=self._snapshot())

    def _piece(self, event: Event) -> bytes:
        if not isinstance(event, Content):
            self._logprobs = []  # those of marks, thinking and calls are not sent
        match event:
            case Content(text):
                return self._text(text, "message", "output_text")
            case Reasoning(text):
                return self._text(
                    text, "reasoning", "summary_text" if self._sends_summary else "reasoning_text"
                )
            case CallStart(_, call_id, name):
                return self._call(call_id, name)
            case CallArguments(_, text):
                return self._arguments(text)
            case CallEnd():
                return self._close("completed")
            case UnopenedThinking():
                return b""

    def _call(self, call_id: str, name: str) -> bytes:
        tool = self._client_names.get(name, ClientToolName(name))
        own: dict[str, Any] = {"call_id": call_id, "name": tool.name}
        if tool.namespace is not None:
            own["namespace"] = tool.namespace
        if tool.takes_text:
            self._text_reader = CustomInputReader()
            item = {"type": "custom_tool_call", "id": _id("ctc"), **own, "input": ""}
        else:
            item = {"type": "function_call", "id": _id("fc"), **own, "arguments": ""}
        return self._open({**item, "status": "in_progress"})

    def _arguments(self, text: str) -> bytes:
        assert self._item is not None
        if self._item["type"] == "custom_tool_call":
            return self._input(self._text_reader.feed(text))
        self._item["arguments"] += text
        return self._event("response.function_call_arguments.delta", **self._place(), delta=text)

    def _input(self, text: str) -> bytes:
        """Add to the text of a custom tool."""
        assert self._item is not None
        if not text:
            return b""
        self._item["input"] += text
        return self._event("response.custom_tool_call_input.delta", **self._place(), delta=text)

    def _text(self, text: str, kind: str, part: str) -> bytes:
        written, form = b"", _FORMS[part]
        if self._item is None or self._item["type"] != kind:
            written = self._open(_message() if kind == "message" else _reasoning())
            assert self._item is not None
            at = {**self._place(), form.index: 0}
            written += self._event(f"response.{form.part}.added", **at, part=_part(part))
            self._item[form.holder] = [_part(part)]
        own = self._item[form.holder][0]
        own["text"] += text
        more: dict[str, Any] = {}
        if part == "output_text":
            own["logprobs"] += self._logprobs
            more, self._logprobs = {"logprobs": self._logprobs}, []
        at = {**self._place(), form.index: 0}
        return written + self._event(f"response.{form.text}.delta", **at, delta=text, **more)

    def _open(self, item: dict[str, Any]) -> bytes:
        written = self._close("completed")
        self.response.output.append(item)
        self._item = item
        return written + self._event(
            "response.output_item.added", output_index=len(self.response.output) - 1, item=item
        )

    def _close(self, status: str) -> bytes:
        item = self._item
        if item is None:
            return b""
        written = b""
        if item["type"] == "function_call":
            whole = {"name": item["name"], "arguments": item["arguments"]}
            written = self._event("response.function_call_arguments.done", **self._place(), **whole)
        elif item["type"] == "custom_tool_call":
            written = self._input(self._text_reader.finish())
            written += self._event(
                "response.custom_tool_call_input.done", **self._place(), input=item["input"]
            )
        else:
            part = (item["content"] or item["summary"])[0]
            form = _FORMS[part["type"]]
            more = {"logprobs": part["logprobs"]} if part["type"] == "output_text" else {}
            if item["type"] == "reasoning" and self._sends_encoded_thinking:
                item["encrypted_content"] = encode_thinking(part["text"])
            place = {**self._place(), form.index: 0}
            written = self._event(f"response.{form.text}.done", **place, text=part["text"], **more)
            written += self._event(f"response.{form.part}.done", **place, part=part)
        item["status"] = status
        written += self._event(
            "response.output_item.done", output_index=len(self.response.output) - 1, item=item
        )
        self._item = None
        return written

    def _place(self) -> dict[str, Any]:
        assert self._item is not None
        return {"item_id": self._item["id"], "output_index": len(self.response.output) - 1}

    def _snapshot(self) -> dict[str, Any]:
        return self.response.model_dump()

    def _event(self, kind: str, **what: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._sequence, **what}
        self._sequence += 1
        return b"event: " + kind.encode() + b"\ndata: " + _encode(event) + b"\n\n"


def _id(kind: str) -> str:
    return f"{kind}_{uuid4().hex}"


def _message() -> dict[str, Any]:
    return {"type": "message", "id": _id("msg"), "status": "in_progress", "role": "assistant", "content": []}


def _reasoning() -> dict[str, Any]:
    return {"type": "reasoning", "id": _id("rs"), "status": "in_progress", "summary": [], "content": []}


def _part(kind: str) -> dict[str, Any]:
    if kind == "output_text":
        return {"type": kind, "text": "", "annotations": [], "logprobs": []}
    return {"type": kind, "text": ""}
