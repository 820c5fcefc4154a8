"""The grammar of an answer that may call tools: free text and calls, or calls and an answer of a given form.

A call is held to a JSON schema from the mark on that begins it. The grammar is written in llguidance's Lark
(docs/syntax.md of guidance-ai/llguidance); the engine puts a model's marks in for `mark_I`, `until_I` and
their like.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vram_llm.chat.formats.call_json import ID, CallJson

_WHITESPACE = r"( |\n[ \t]{0,40})?"  # between the parts of JSON; endless, a model could stay in it
_BASE = r"""%llguidance {}
WS: /[ \t\r\n]{0,8}/
ID: /[A-Za-z0-9_.:-]{1,64}/
"""
_SYNTAX = re.compile(rf"{re.escape(ID)}|[{{}}:,\[\]]")
_GAPS = re.compile(rf"(\s+|{re.escape(ID)})")


@dataclass(frozen=True, slots=True)
class Held:
    """How a tool's arguments are held: to `schema`, or as far as it can be where `lenient`."""

    schema: Mapping[str, Any]
    lenient: bool


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """Lark, the marks that it names by their number, and those that its free text does not hold."""

    lark: str
    marks: tuple[str, ...]
    never: tuple[str, ...] = ()


class GrammarWriter:
    """Writes rules. An expression is a Lark expression of rules and quoted text, a space between any two."""

    def __init__(self) -> None:
        self.marks: list[str] = []
        self._rules: list[str] = []

    def mark(self, text: str) -> int:
        """The number of a mark."""
        if text not in self.marks:
            self.marks.append(text)
        return self.marks.index(text)

    def rule(self, name: str, *choices: str) -> str:
        """Define a rule; its name."""
        self._rules.append(f"{name}: {' | '.join(choices)}")
        return name

    def literal(self, text: str, *, is_json: bool = False) -> str:
        """An expression for a format's own text. Space in it may be other space, or none."""
        if is_json:
            text = _SYNTAX.sub(lambda found: found[0] if found[0] == ID else f" {found[0]} ", text)
        parts = [part for part in _GAPS.split(text) if part]
        return " ".join(self._part(part, is_json) for part in parts)

    def _part(self, part: str, is_json: bool) -> str:
        if part.isspace():
            return "WS"
        if part == ID:
            return "ID"
        return quoted(part) if is_json else f"mark_{self.mark(part)}"

    def json(self, name: str, held: Held) -> str:
        """A rule for a JSON object; its name."""
        return self.json_value(name, Held({**held.schema, "type": "object"}, held.lenient))

    def json_value(self, name: str, held: Held) -> str:
        """A rule for JSON of any kind; its name."""
        options = {"whitespace_pattern": _WHITESPACE, "lenient": held.lenient}
        return self.rule(name, f"%json {json.dumps({**held.schema, 'x-guidance': options})}")

    def finished(self, never: Iterable[str] = ()) -> CallGrammar:
        """The grammar, whose first rule is `start`."""
        return CallGrammar(_BASE + "\n".join(self._rules) + "\n", tuple(self.marks), tuple(never))


def quoted(text: str) -> str:
    """An expression for text without marks and spaces."""
    return json.dumps(text, ensure_ascii=False)


def joined(*parts: str) -> str:
    """Expressions one after the other, with no space twice in a row."""
    words = " ".join(part for part in parts if part).split(" ")
    return " ".join(word for i, word in enumerate(words) if word != "WS" or i == 0 or words[i - 1] != "WS")


def _without_space(expression: str) -> str:
    """The same, where what is around it allows space."""
    return expression.removeprefix("WS ").removesuffix(" WS")


def write_calls(writer: GrammarWriter, form: CallJson, tools: Mapping[str, Held], *, parallel: bool) -> str:
    """Rules for calls of the tools behind the form's trigger, and all that belongs to them; a rule's name."""
    calls = []
    for i, (name, held) in enumerate(tools.items()):
        arguments = writer.json(f"arguments_{i}", held)
        calls.append(
            _without_space(
                joined(
                    writer.literal(form.before, is_json=form.name_in_json),
                    quoted(name),
                    writer.literal(form.between, is_json=form.name_in_json),
                    arguments,
                    writer.literal(form.after, is_json=form.name_in_json),
                )
            )
        )
    call = writer.rule("call", *calls)
    more = ""
    if form.separator is not None and parallel:
        more = f"({joined('WS', writer.literal(form.separator), 'WS', call)})*"
    end = joined("WS", writer.literal(form.closing)) if form.closing else ""
    return writer.rule("calls", joined("WS", writer.literal(form.opening), "WS", call, more, end))
