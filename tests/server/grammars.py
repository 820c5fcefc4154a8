"""For tests of tool grammars: tools, prompts of every format, and the texts that a grammar accepts."""

import json
from collections.abc import Callable
from typing import Any, cast

from vram_llm.chat.dialect import Dialect
from vram_llm.chat.formats.call_format import CallFormat
from vram_llm.chat.formats.call_json import ID
from vram_llm.chat.formats.table import FORMATS, NONE
from vram_llm.chat.formats.thinking_marks import DEFAULT
from vram_llm.chat.prompt import ChatPrompt
from vram_llm.chat.tag_grammar import GLM, layout_of
from vram_llm.engine.request import Grammar, GrammarKind
from vram_llm.engine.sampling.structured_output import _matcher, _tokenizer
from vram_llm.llama.vocab import Vocab
from vram_llm.server.tools import ToolUse

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Xanadu"]}},
    "required": ["city"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
USE = ToolUse(
    tools=({"type": "function"},),
    schemas={"weather": CITY, "free": {"properties": {"q": {"type": "integer"}}}, "now": NOTHING},
    strict=frozenset(["weather"]),
)
GOOD, BAD, FREE = '{"city": "Xanadu"}', '{"city": "Paris"}', '{"q": "x", "z": [1, {}]}'
ANSWER = Grammar(
    kind=GrammarKind.JSON_SCHEMA,
    text='{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}',
    field="response_format",
)
THINKS = ("<think>", "</think>")
CONSTRAINABLE = [f for f in (*FORMATS, NONE) if f.call_json or f.tags or f.layout]


class Bytes:
    """A vocabulary of all bytes, some marks and an end."""

    def __init__(self, marks: tuple[str, ...]) -> None:
        self._marks = marks
        self._spellings = [bytes([i]) for i in range(256)] + [m.encode() for m in marks] + [b"<eos>"]
        self.n_tokens = len(self._spellings)
        self.bos, self.eos = -1, self.n_tokens - 1
        self.ends = frozenset([self.eos])

    def spelling(self, token: int) -> bytes:
        return self._spellings[token]

    def is_special(self, token: int) -> bool:
        return token >= 256

    def is_end(self, token: int) -> bool:
        return token == self.eos

    def tokenize_inside(self, text: str, *, parse_special: bool) -> list[int]:
        tokens: list[int] = []
        while text:
            mark = next((m for m in self._marks if parse_special and text.startswith(m)), None)
            if mark is None:
                tokens += text[0].encode()
            else:
                tokens.append(256 + self._marks.index(mark))
            text = text[len(mark or "x") :]
        return tokens


Accepts = Callable[[str], bool]


def follower(grammar: Grammar, marks: tuple[str, ...] = ()) -> Accepts:
    """A function that returns whether `grammar` accepts a whole text."""
    vocab = cast(Vocab, Bytes(marks))
    tokenizer = _tokenizer(vocab)

    def takes(text: str) -> bool:
        matcher = _matcher(tokenizer, grammar, vocab)
        tokens = vocab.tokenize_inside(text, parse_special=True)
        if matcher.validate_tokens(tokens) < len(tokens):
            return False
        matcher.consume_tokens(tokens)
        return bool(matcher.is_accepting())

    return takes


def prompt_of(form: CallFormat, text: str = "Say.") -> ChatPrompt:
    dialect = Dialect(
        name=form.name,
        takes_tools=True,
        form=form,
        marks=form.marks,
        thinking=None if form.name == "harmony" else DEFAULT,
    )
    return ChatPrompt(text, dialect)


def call_of(prompt: ChatPrompt, name: str, arguments: str) -> str:
    form = prompt.dialect.call_json
    if form is None:
        return tagged_call(prompt, name, json.loads(arguments))
    call = f"{form.before}{name}{form.between}{arguments}{form.after}"
    return f"{form.trigger}{form.opening}{call}{form.closing}".replace(ID, "a1")


def tagged_call(prompt: ChatPrompt, name: str, arguments: dict[str, Any]) -> str:
    tags = prompt.dialect.form.layout
    layout = GLM if tags is None else layout_of(tags)
    call = f"{layout.call}{name}{layout.name_end}"
    for key, value in arguments.items():
        is_text = isinstance(value, str)
        mark = layout.text_mark if is_text else layout.json_mark
        text = value if is_text else json.dumps(value)
        newline = "\n" if layout.newline else ""
        call += f"{layout.parameter}{key}{mark}{layout.key_end}{newline}{text}{newline}{layout.value_end}\n"
    opening, closing = layout.outer or ("", "")
    return f"{opening}{call}{layout.call_end}{closing}"


def lead_of(form: CallFormat) -> str:
    """Content before a call, if the format can have some."""
    return "" if form.name in ("harmony", "llama-json") else "Wait. "
