"""Thinking that stays in the content of an answer, between its marks (`reasoning_format` of "none")."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from vram_llm.chat.events import Content, Event, Reasoning, UnopenedThinking
from vram_llm.chat.reader import Parser
from vram_llm.server.prepare_chat import PreparedChat

_DEFAULT = ("<think>", "</think>")


class InlineThinkingParser(Parser):
    """Wraps `parser` and returns its thinking as content."""

    def __init__(self, parser: Parser, marks: tuple[str, str]) -> None:
        self._parser = parser
        self._opening, self._closing = marks
        self._is_thinking = False

    def feed(self, text: str) -> list[Event]:
        """The events that are decided after `text`."""
        return self._inlined(self._parser.feed(text))

    def finish(self) -> list[Event]:
        """The last events. Do not feed after this."""
        return self._inlined(self._parser.finish())

    def _inlined(self, events: Iterable[Event]) -> list[Event]:
        rewritten: list[Event] = []
        for event in events:
            if isinstance(event, Reasoning):
                opening = "" if self._is_thinking else self._opening
                self._is_thinking = True
                rewritten.append(Content(opening + event.text))
                continue
            if self._is_thinking or isinstance(event, UnopenedThinking):
                rewritten.append(Content(self._closing))
                self._is_thinking = False
            if not isinstance(event, UnopenedThinking):
                rewritten.append(event)
        return rewritten


def with_inline_thinking(prepared: PreparedChat, marks: tuple[str, str] | None) -> PreparedChat:
    """`prepared` with thinking as content between the model's own marks, (opening, closing)."""

    def of(new_parser: Callable[[], Parser | None]) -> Parser | None:
        parser = new_parser()
        return None if parser is None else InlineThinkingParser(parser, marks or _DEFAULT)

    return replace(prepared, new_parser=lambda: of(prepared.new_parser))
