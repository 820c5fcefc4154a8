"""Grammars: llguidance finds the tokens that may come next, while the device computes.

A thread compiles grammars, so that a large one delays no other stream; its request waits.
"""

import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import llguidance
import numpy as np
from llguidance.gbnf_to_lark import any_to_lark

from vram_llm.engine.request import Grammar, GrammarKind
from vram_llm.engine.sampling.marked_grammars import definitions
from vram_llm.engine.sampling.numpy_sampler import Indices
from vram_llm.errors import RequestError, VramLLMError
from vram_llm.llama.vocab import Vocab

WHITESPACE = r"( |\n[ \t]{0,40})?"  # between the parts of JSON; a model could write unbounded space for ever
_MAX_COMPILED = 32  # grammars
_REASON_CHARS = 300
_PLACE = re.compile(r"at (\d+)\(\d+\): (?:failed to compile JSON schema: )?")  # with a line number
_LISTING = re.compile(r"\n *\d+ \| ")  # the grammar, as the message quotes it
_OF_TOOL = re.compile(r"(?:arguments|value)_(\d+)")


class GrammarFailed(VramLLMError):
    """A grammar became too complex in the middle of an answer."""


class Constraint:
    """One sequence's state in a grammar. `is_complete` once no token can follow.

    While the background thread computes a mask, the matcher must not be used: llguidance refuses.
    """

    def __init__(self, matcher: llguidance.LLMatcher, n_tokens: int, background: ThreadPoolExecutor) -> None:
        self._matcher = matcher
        self._n_tokens = n_tokens
        self._background = background
        self._bits = np.zeros(-(-n_tokens // 32), np.uint32)
        self._computing = background.submit(self._compute)
        self.is_complete = False

    def allowed(self) -> Indices:
        """Wait for the tokens that may come next, ascending. Raises GrammarFailed."""
        self._computing.result()
        tokens = np.flatnonzero(np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._n_tokens])
        if self._matcher.is_error() or not len(tokens):
            raise GrammarFailed(
                f"the grammar cannot be followed any further: {_reason(self._matcher.get_error())}"
            )
        return tokens

    def accept(self, token: int) -> None:
        """Take in `token`, one of the allowed ones; a thread computes which tokens may follow it."""
        self._matcher.consume_token(token)
        self.is_complete = self._matcher.is_stopped()
        if not self.is_complete:
            self._computing = self._background.submit(self._compute)

    def accept_all(self, tokens: list[int]) -> None:
        """Take in tokens that an earlier engine wrote under the same grammar."""
        self._computing.result()
        self._matcher.consume_tokens(tokens)
        self._computing = self._background.submit(self._compute)

    def allowed_prefix(self, tokens: list[int]) -> list[int]:
        """The longest beginning of `tokens` that the grammar allows."""
        self._computing.result()
        return tokens[: self._matcher.validate_tokens(tokens)] if tokens else tokens

    def _compute(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)


class GrammarCompiler:
    """Compiles grammars for one vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._compiled: dict[Grammar, llguidance.LLMatcher] = {}
        # two threads: streams wait for masks, which a large grammar must not delay
        self._compiling = ThreadPoolExecutor(1, "grammars")
        self._masking = ThreadPoolExecutor(1, "masks")

    def compile(self, grammar: Grammar) -> "Future[Constraint]":
        """A future of a sequence's constraint, or of a RequestError if `grammar` is bad."""
        return self._compiling.submit(self._constraint, grammar)

    def _constraint(self, grammar: Grammar) -> Constraint:
        matcher = self._compiled.get(grammar)
        if matcher is None:
            if self._tokenizer is None:
                self._tokenizer = _tokenizer(self._vocab)
            matcher = _matcher(self._tokenizer, grammar, self._vocab)
            if len(self._compiled) == _MAX_COMPILED:
                self._compiled.pop(next(iter(self._compiled)))
            self._compiled[grammar] = matcher
        return Constraint(matcher.deep_copy(), self._vocab.n_tokens, self._masking)


class _TokenizerWrapper:
    """A vocabulary in the form of llguidance.TokenizerWrapper."""

    def __init__(self, vocab: Vocab) -> None:
        ids = range(vocab.n_tokens)
        self._vocab = vocab
        self.bos_token_id = vocab.bos if vocab.bos >= 0 else None
        self.eos_token_id = vocab.eos if vocab.eos >= 0 else min(vocab.ends)
        self.tokens = [vocab.spelling(token) for token in ids]
        self.special_token_ids = [token for token in ids if vocab.is_special(token)]
        special = set(self.special_token_ids)
        self._ids = {piece: token for token, piece in enumerate(self.tokens) if token not in special}
        self._longest = max(map(len, self._ids))

    def __call__(self, text: bytes) -> list[int]:
        """Tokenize `text` as a continuation of other text."""
        tokens = self._vocab.tokenize_inside(text.decode(), parse_special=False)
        is_exact = b"".join(self.tokens[token] for token in tokens) == text
        return tokens if is_exact else self._longest_first(text)

    def _longest_first(self, text: bytes) -> list[int]:
        """Tokenize text that llama.cpp's tokenizer changes, by the longest pieces first."""
        tokens = []
        while text:
            n = next((n for n in range(min(len(text), self._longest), 0, -1) if text[:n] in self._ids), None)
            if n is None:
                break
            tokens.append(self._ids[text[:n]])
            text = text[n:]
        return tokens


def _tokenizer(vocab: Vocab) -> llguidance.LLTokenizer:
    if not vocab.ends:
        raise RequestError("the model has no token that ends an answer, so it can follow no grammar")
    pieces = llguidance.TokenizerWrapper(_TokenizerWrapper(vocab))
    return llguidance.LLTokenizer(pieces, eos_token=sorted(vocab.ends))


def _matcher(tokenizer: llguidance.LLTokenizer, grammar: Grammar, vocab: Vocab) -> llguidance.LLMatcher:
    """A matcher at the grammar's beginning. Raises RequestError."""
    try:
        matcher = llguidance.LLMatcher(tokenizer, _definition(grammar, vocab), log_level=0)
    except ValueError as error:  # not JSON, or not GBNF
        raise _refusal(grammar, str(error)) from error
    if matcher.is_error():
        if grammar.answer is not None:
            _matcher(tokenizer, grammar.answer, vocab)  # the error may be there
        raise _of_tool(grammar, matcher.get_error()) or _refusal(grammar, matcher.get_error())
    return matcher


def _definition(grammar: Grammar, vocab: Vocab) -> str:
    """The grammar in llguidance's own form. Raises ValueError."""
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            return llguidance.LLMatcher.grammar_from_json_schema(
                grammar.text, overrides={"whitespace_pattern": WHITESPACE, "lenient": grammar.lenient}
            )
        case GrammarKind.REGEX:
            return llguidance.LLMatcher.grammar_from_regex(grammar.text)
        case GrammarKind.CHOICE:
            return llguidance.grammar_from("choice", grammar.text)
        case GrammarKind.MARKED:
            own = {
                "lark_grammar": grammar.text + definitions(vocab, grammar.text, grammar.marks, grammar.never)
            }
            parts = [own] if grammar.answer is None else [own, _part(grammar.answer, "answer", vocab)]
            return json.dumps({"grammars": parts})
        case GrammarKind.GBNF:
            try:
                return llguidance.LLMatcher.grammar_from_lark(any_to_lark(grammar.text))
            except Exception as error:  # the converter raises many types
                raise ValueError(str(error)) from error


def _part(grammar: Grammar, name: str, vocab: Vocab) -> dict[str, Any]:
    """A grammar as a named part of another. Raises RequestError."""
    try:
        text = _definition(grammar, vocab)
    except ValueError as error:
        raise _refusal(grammar, str(error)) from error
    whole = json.loads(text)["grammars"][0] if text.startswith("{") else {"lark_grammar": text}
    return {**whole, "name": name}


def _of_tool(grammar: Grammar, why: str) -> RequestError | None:
    """The refusal if llguidance's message names the rule of one tool's arguments; else None."""
    place = _PLACE.match(why)
    if place is None:
        return None
    lines = grammar.text.splitlines()[int(place[1]) - 1 :]
    rule = _OF_TOOL.match(lines[0]) if lines else None
    if rule is None or int(rule[1]) >= len(grammar.tools):
        return None
    tool, reason = grammar.tools[int(rule[1])], _reason(_LISTING.split(why[place.end() :])[0])
    return RequestError(
        f"The parameters of the tool '{tool}' cannot be enforced: {reason}; simplify them, or leave "
        "'strict' out",
        grammar.field,
    )


def _refusal(grammar: Grammar, why: str) -> RequestError:
    return RequestError(f"The grammar in '{grammar.field}' cannot be used: {_reason(why)}", grammar.field)


def _reason(text: str) -> str:
    """llguidance's message as one line."""
    line = " ".join(text.split())
    return line if len(line) <= _REASON_CHARS else line[:_REASON_CHARS] + "..."
