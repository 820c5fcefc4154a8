"""Custom tools: they take one text, which the model writes as the only argument, `input`."""

import json
import re
from typing import Any

from vram_llm.engine.request import Grammar, GrammarKind
from vram_llm.errors import RequestError
from vram_llm.server.known_fields import check_names

TEXT_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
_KINDS = {"lark": GrammarKind.GBNF, "regex": GrammarKind.REGEX}
_GRAMMAR, _OUTER = frozenset({"syntax", "definition"}), frozenset({"type", "grammar"})
_BEGIN = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_HIGH, _LOW = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_UNITS = re.compile(  # whole surrogate pairs and valid JSON escapes only
    rf'(?:[^"\\]|{_HIGH}{_LOW}|(?!{_HIGH}|{_LOW})\\u[0-9a-fA-F]{{4}}|\\["\\/bfnrt])*'
)
_CUT = re.compile(rf"(?:{_HIGH})?(?:\\(?:u[0-9a-fA-F]{{0,3}})?)?")  # an incomplete escape
_AS_WRITTEN = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)  # up to the quote that closes the string


def text_grammar(value: Any, at: str) -> Grammar | None:
    """The grammar in a tool's `format`; None: any text. Raises RequestError.

    {"type": "grammar", "syntax", "definition"} is the responses' form; chats have the last two in "grammar".
    """
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        check_names(value, at, frozenset({"type"}))
    if value is None or kind == "text":
        return None
    if kind == "grammar":
        inner = value.get("grammar")
        check_names(value, at, _OUTER if inner else _GRAMMAR | {"type"})
        value = inner or value
        if isinstance(inner, dict):
            check_names(inner, f"{at}.grammar", _GRAMMAR)
        syntax, text = (
            (value.get(name) for name in ("syntax", "definition")) if isinstance(value, dict) else (0, 0)
        )
        if isinstance(syntax, str) and syntax in _KINDS and isinstance(text, str):
            return Grammar(kind=_KINDS[syntax], text=text, field=at)
    raise RequestError(
        f"'{at}' must be of type 'text', or 'grammar' with a 'syntax' of 'lark' or 'regex' and a "
        "'definition'",
        at,
    )


def text_parameters(grammar: Grammar) -> dict[str, Any]:
    """The parameters of a tool with a text grammar: a regex as a pattern, Lark as a description."""
    if grammar.kind is GrammarKind.REGEX:
        rule = {"pattern": f"^(?:{grammar.text})$"}
    else:
        rule = {"description": f"A text of this Lark grammar:\n{grammar.text}"}
    return {**TEXT_PARAMETERS, "properties": {"input": {"type": "string", **rule}}}


class CustomInputReader:
    """Reads `input` out of the arguments of a call as they come in: {"input": "..."}."""

    def __init__(self) -> None:
        self.text = ""  # as far as it is decoded
        self._arguments = ""
        self._at: int | None = None  # the first unread character of the string

    def feed(self, arguments: str) -> str:
        """Read more `arguments`; return the new part of the text."""
        self._arguments += arguments
        if self._at is None and (begun := _BEGIN.match(self._arguments)):
            self._at = begun.end()
        if self._at is None:
            return ""
        units = _UNITS.match(self._arguments, self._at)
        assert units is not None
        self._at = units.end()
        return self._add(str(json.loads(f'"{units[0]}"', strict=False)))

    def finish(self) -> str:
        """The rest of the text. An invalid escape and the characters after it are taken as written.

        Arguments of another form are the text themselves.
        """
        if self._at is None:
            return self._add(_input_of(self._arguments))
        rest, self._at = self._arguments[self._at :], len(self._arguments)
        written = _AS_WRITTEN.match(rest)
        assert written is not None
        return self._add("" if _CUT.fullmatch(rest) else written[0])

    def _add(self, more: str) -> str:
        self.text += more
        return more


def text_of(arguments: str) -> str:
    """The text in whole arguments, equal to that of a `CustomInputReader` that reads them in pieces."""
    reader = CustomInputReader()
    return reader.feed(arguments) + reader.finish()


def _input_of(arguments: str) -> str:
    try:
        value = json.loads(arguments)
        text = value.get("input") if isinstance(value, dict) else None
        if isinstance(text, str):
            text.encode()  # raises for half of a surrogate pair
            return text
    except (ValueError, RecursionError):
        pass
    return arguments


def arguments_of(text: str) -> str:
    """The arguments of a call with this text."""
    return json.dumps({"input": text}, ensure_ascii=False)
