"""Chat answers in OpenAI's format: chunks of a stream, and whole messages."""

from dataclasses import dataclass
from typing import Any

import msgspec

from vram_llm.chat.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning
from vram_llm.server.custom_tools import CustomInputReader, text_of
from vram_llm.server.logprobs import chat_logprobs
from vram_llm.server.parsed_stream import ParsedCall, ParsedChoice, ParsedChunk
from vram_llm.server.replies import (
    AssistantMessage,
    CalledCustom,
    CalledFunction,
    ChatEnding,
    CustomToolCall,
    ReplyHead,
    ToolCall,
    UsageCounter,
)
from vram_llm.server.sse import Chunks

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class ChatForm:
    """The form of a chat answer.

    `legacy`: a call is OpenAI's older `function_call`. `takes_text`: custom tools, whose calls contain a
    text.
    """

    legacy: bool = False
    takes_text: frozenset[str] = frozenset()
    hides_thinking: bool = False

    def ending(self, ending: ChatEnding) -> ChatEnding:
        """The `finish_reason`."""
        return "function_call" if self.legacy and ending == "tool_calls" else ending

    def message(self, answer: ParsedChoice) -> AssistantMessage:
        """A whole answer."""
        calls = [self._call(call) for call in answer.calls]
        legacy = [call.function for call in calls if isinstance(call, ToolCall)] if self.legacy else []
        return AssistantMessage(
            content=answer.content if answer.content or not calls else None,
            reasoning_content=None if self.hides_thinking else answer.reasoning or None,
            tool_calls=None if self.legacy else calls or None,
            function_call=legacy[0] if legacy else None,
        )

    def _call(self, call: ParsedCall) -> ToolCall | CustomToolCall:
        if call.name in self.takes_text:
            return CustomToolCall(
                id=call.id, custom=CalledCustom(name=call.name, input=text_of(call.arguments))
            )
        return ToolCall(id=call.id, function=CalledFunction(name=call.name, arguments=call.arguments))


class ChatChunks(Chunks[ParsedChunk]):
    """chat.completion.chunk objects."""

    object = "chat.completion.chunk"
    before_text = b'"delta":{"content":'
    after_text = b"}"
    nothing = b'"delta":{}'

    def __init__(
        self, head: ReplyHead, n_choices: int, counter: UsageCounter, form: ChatForm, *, include_usage: bool
    ) -> None:
        super().__init__(head, n_choices, counter, include_usage=include_usage)
        self._form = form
        self._is_open = False  # whether the chunks with the role were sent
        self._texts: dict[
            tuple[int, int], CustomInputReader
        ] = {}  # of custom tools' calls, by (choice, call)

    def _roles(self) -> bytes:
        self._is_open = True
        role = b'"delta":{"role":"assistant","content":null,"refusal":null}'
        return b"".join(self._choice(index, role) for index in range(len(self._text_begins)))

    def event(self, index: int, item: ParsedChunk) -> bytes:
        if item.token.prompt_done is not None:
            return b""
        events, chunk = item.events, b"" if self._is_open else self._roles()
        if item.token.logprobs:  # one chunk has the logprobs and all content of these tokens, even if empty
            text = "".join(event.text for event in events if isinstance(event, Content))
            chunk += self._likely(index, text, chat_logprobs(item.token.logprobs))
            events = [event for event in events if not isinstance(event, Content)]
        chunk += b"".join(self._piece(index, event) for event in events)
        if item.ending is not None:
            unfinished = [key for key in self._texts if key[0] == index]
            chunk += b"".join(self._input(*key, self._texts.pop(key).finish()) for key in unfinished)
            self._tally.add(index, item.token, item.reasoning_tokens)
            chunk += self._finish(index, _encode(self._form.ending(item.ending)))
        return chunk

    def _piece(self, index: int, event: Event) -> bytes:
        match event:
            case Content(text):
                return self.text(index, text)
            case Reasoning(text) if not self._form.hides_thinking:
                return self._choice(index, b'"delta":{"reasoning_content":%b}' % _encode(text))
            case CallStart(call, call_id, name) if name in self._form.takes_text:
                self._texts[index, call] = CustomInputReader()
                custom = {"name": name, "input": ""}
                return self._call(index, {"index": call, "id": call_id, "type": "custom", "custom": custom})
            case CallStart(call, call_id, name):
                function = {"name": name, "arguments": ""}
                return self._function(index, call, function, {"id": call_id, "type": "function"})
            case CallArguments(call, text) if (index, call) in self._texts:
                return self._input(index, call, self._texts[index, call].feed(text))
            case CallArguments(call, text):
                return self._function(index, call, {"arguments": text}, {})
            case CallEnd(call) if (index, call) in self._texts:
                return self._input(index, call, self._texts.pop((index, call)).finish())
        return b""

    def _input(self, index: int, call: int, text: str) -> bytes:
        return self._call(index, {"index": call, "custom": {"input": text}}) if text else b""

    def _function(self, index: int, call: int, function: dict[str, Any], more: dict[str, Any]) -> bytes:
        if self._form.legacy:
            return self._choice(index, b'"delta":{"function_call":%b}' % _encode(function))
        return self._call(index, {"index": call, **more, "function": function})

    def _call(self, index: int, delta: dict[str, Any]) -> bytes:
        return self._choice(index, b'"delta":{"tool_calls":[%b]}' % _encode(delta))
