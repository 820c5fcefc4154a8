"""The grammar of an answer that may call tools: free text and calls, or calls and an answer of a given form.

A call must match a JSON schema, from the mark at its beginning on. The grammar is written in llguidance's
Lark (docs/syntax.md of guidance-ai/llguidance). The engine replaces `mark_I`, `until_I` and similar names by
a model's marks.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vram_llm.chat.formats.call_json import ID, CallJson

_WHITESPACE = r"( |\n[ \t]{0,40})?"  # between the parts of JSON; limited, so that a model cannot stay in it
_BASE = r"""%llguidance {}
WS: /[ \t\r\n]{0,8}/
ID: /[A-Za-z0-9_.:-]{1,64}/
"""
_SYNTAX = re.compile(rf"{re.escape(ID)}|[{{}}:,\[\]]")
_GAPS = re.compile(rf"(\s+|{re.escape(ID)})")


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """The schema of a tool's arguments. `lenient`: rules that a grammar cannot express are ignored."""

    schema: Mapping[str, Any]
    lenient: bool


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """A Lark grammar, the marks that it numbers, and the marks that its free text does not contain."""

    lark: str
    marks: tuple[str, ...]
    never: tuple[str, ...] = ()


class GrammarWriter:
    """Writes rules. An expression is Lark: rules and quoted texts, with a space between any two."""

    def __init__(self) -> None:
        self.marks: list[str] = []
        self._rules: list[str] = []

    def mark(self, text: str) -> int:
        """The number of a mark."""
        if text not in self.marks:
            self.marks.append(text)
        return self.marks.index(text)

    def rule(self, name: str, *choices: str) -> str:
        """Define a rule and return its name."""
        self._rules.append(f"{name}: {' | '.join(choices)}")
        return name

    def literal(self, text: str, *, is_json: bool = False) -> str:
        """An expression for a format's own text. Its white space may differ or be absent."""
        if is_json:
            text = _SYNTAX.sub(lambda match: match[0] if match[0] == ID else f" {match[0]} ", text)
        parts = [part for part in _GAPS.split(text) if part]
        return " ".join(self._part(part, is_json) for part in parts)

    def _part(self, part: str, is_json: bool) -> str:
        if part.isspace():
            return "WS"
        if part == ID:
            return "ID"
        return quoted(part) if is_json else f"mark_{self.mark(part)}"

    def json(self, name: str, tool: ToolSchema) -> str:
        """Define a rule for a JSON object and return its name."""
        return self.json_value(name, ToolSchema({**tool.schema, "type": "object"}, tool.lenient))

    def json_value(self, name: str, tool: ToolSchema) -> str:
        """Define a rule for any JSON value and return its name."""
        options = {"whitespace_pattern": _WHITESPACE, "lenient": tool.lenient}
        return self.rule(name, f"%json {json.dumps({**tool.schema, 'x-guidance': options})}")

    def finished(self, never: Iterable[str] = ()) -> CallGrammar:
        """The grammar, whose first rule is `start`."""
        return CallGrammar(_BASE + "\n".join(self._rules) + "\n", tuple(self.marks), tuple(never))


def quoted(text: str) -> str:
    """An expression for text without marks and spaces."""
    return json.dumps(text, ensure_ascii=False)


def joined(*parts: str) -> str:
    """Expressions in a row, without two spaces in a row."""
    words = " ".join(part for part in parts if part).split(" ")
    return " ".join(word for i, word in enumerate(words) if word != "WS" or i == 0 or words[i - 1] != "WS")


def _without_space(expression: str) -> str:
    """The expression without the space at its ends, which the text around it allows."""
    return expression.removeprefix("WS ").removesuffix(" WS")


def write_calls(
    writer: GrammarWriter, form: CallJson, tools: Mapping[str, ToolSchema], *, parallel: bool
) -> str:
    """Define the rule `calls`, the text after the form's trigger, and return its name."""
    calls = []
    for i, (name, tool) in enumerate(tools.items()):
        arguments = writer.json(f"arguments_{i}", tool)
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
