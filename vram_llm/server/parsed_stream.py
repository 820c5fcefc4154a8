"""Parses the engine's token events into content, thinking and tool calls."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

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
from vram_llm.chat.reader import Parser
from vram_llm.engine.request import FinishReason, Likelihood, TokenEvent
from vram_llm.errors import ContextExceeded
from vram_llm.server.generation import TokenEvents
from vram_llm.server.prompt_limits import with_truncate_named
from vram_llm.server.replies import ChatEnding, UsageCounter


@dataclass(frozen=True, slots=True)
class ParsedChunk:
    """The next events of one choice. The last chunk has an `ending`. `reasoning_tokens` is a total."""

    events: Sequence[Event]
    token: TokenEvent
    ending: ChatEnding | None = None
    reasoning_tokens: int = 0


ParsedChunks = AsyncGenerator[tuple[int, ParsedChunk], None]


@dataclass(slots=True)
class ParsedCall:
    """A tool call. `arguments` is the text of a JSON object if the call is `whole`."""

    id: str
    name: str
    arguments: str = ""
    whole: bool = False


@dataclass(slots=True)
class ParsedChoice:
    """One choice, gathered from its events."""

    content: str = ""
    reasoning: str = ""
    calls: list[ParsedCall] = field(default_factory=list)
    ending: ChatEnding = "stop"
    logprobs: list[Likelihood] = field(default_factory=list)

    def add(self, events: Sequence[Event]) -> None:
        """Append events."""
        for event in events:
            match event:
                case Content(text):
                    self.content += text
                case Reasoning(text):
                    self.reasoning += text
                case UnopenedThinking():
                    self.reasoning, self.content = self.reasoning + self.content, ""
                case CallStart(_, call_id, name):
                    self.calls.append(ParsedCall(call_id, name))
                case CallArguments(index, text):
                    self.calls[index].arguments += text
                case CallEnd(index):
                    self.calls[index].whole = True


@dataclass(slots=True)
class ChoiceParser:
    """Parses the token events of one choice; without a parser all text is content.

    With `one_call`, the choice ends with its first call.
    """

    parser: Parser | None
    one_call: bool = False
    called: bool = False
    thinks: bool = False
    undecided: int = 0  # tokens without an event so far: marks, or white space
    reasoning_tokens: int = 0
    ended: bool = False

    def feed(self, token: TokenEvent) -> ParsedChunk:
        """What the next event brings."""
        events = self._parse(token)
        reason = token.finish_reason
        if self.one_call and (cut := _first_call_end(events)) is not None:
            events, reason = events[:cut], FinishReason.STOP
            token = msgspec.structs.replace(token, finish_reason=reason)
        for event in events:
            self.called = self.called or isinstance(event, CallStart)
            self.thinks = isinstance(event, Reasoning)
        self.undecided += len(token.token_ids)
        if events or reason is not None:
            self.reasoning_tokens += self.undecided if self.thinks else 0
            self.undecided = 0
        self.ended = reason is not None
        return ParsedChunk(events, token, self._ending(reason), self.reasoning_tokens)

    def _parse(self, token: TokenEvent) -> list[Event]:
        if self.parser is None:
            return [Content(token.text)] if token.text else []
        events = self.parser.feed(token.text) if token.text else []
        return events + self.parser.finish() if token.finish_reason is not None else events

    def _ending(self, reason: FinishReason | None) -> ChatEnding | None:
        if reason is None:
            return None
        if reason is FinishReason.LENGTH:
            return "length"
        return "tool_calls" if self.called else "stop"


async def parse_stream(token_events: TokenEvents, choices: Sequence[ChoiceParser]) -> ParsedChunks:
    """Parse `token_events`, one parser per choice.

    Raises what they raise; a prompt that is too long is refused with a word about `truncate`.
    """
    async with aclosing(token_events):
        try:
            async for index, token in token_events:
                if not choices[index].ended:
                    yield index, choices[index].feed(token)
                if all(choice.ended for choice in choices):
                    return
        except ContextExceeded as error:
            raise with_truncate_named(error) from None


async def gather_choices(chunks: ParsedChunks, counter: UsageCounter) -> list[ParsedChoice]:
    """All finished choices, in order."""
    answers = [ParsedChoice() for _ in range(counter.n)]
    async with aclosing(chunks):
        async for index, chunk in chunks:
            answers[index].add(chunk.events)
            answers[index].logprobs += chunk.token.logprobs
            if chunk.ending is not None:
                answers[index].ending = chunk.ending
                counter.add(index, chunk.token, chunk.reasoning_tokens)
    return answers


def _first_call_end(events: Sequence[Event]) -> int | None:
    """The number of `events` up to the end of the first call; None if no call ends."""
    return next((i + 1 for i, e in enumerate(events) if isinstance(e, CallEnd)), None)
