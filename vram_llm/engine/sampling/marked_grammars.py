"""Lark grammars over a model's own marks: the rules for their names in one vocabulary.

A mark ("<tool_call>", "[TOOL_CALLS]") is a special token in one vocabulary and text in another, and
llguidance matches the two by different rules. A grammar of GrammarKind.MARKED names marks by their number,
and the rules are defined here:

- `mark_I`: the mark.
- `begin_I`: space, then the mark. `until_I`: any text up to the mark's first occurrence, and the mark.
- `trigger_I`: the same as `until_I`, where no free text may follow the mark.
- `others`: a special token that is not itself a mark.
- `TEXT`: any text. `SAFE`: text before a special token: it does not end with a trigger.
"""

import json
import re
from collections.abc import Iterable, Sequence

from vram_llm.llama.vocab import Vocab

_ANY = "/(?s:.*)/"
_SPACES = r"/[ \t\r\n]*/"
_NOTHING = '"\\u0000"'  # stands for a missing token: no answer contains it
_TRIGGER = re.compile(r"\btrigger_(\d{1,4})\b")
_Piece = int | str  # a special token, or text


def definitions(vocab: Vocab, lark: str, marks: Sequence[str], never: Iterable[str]) -> str:
    """Lark rules for the `marks` of a grammar; its free text contains no mark of `never`."""
    pieces = [_pieces(vocab, mark) for mark in marks]
    unwanted = [_pieces(vocab, mark) for mark in never]
    alone = {mark[0] for mark in pieces + unwanted if len(mark) == 1}
    triggers = [pieces[int(i)] for i in sorted(set(_TRIGGER.findall(lark))) if int(i) < len(marks)]
    firsts = sorted({mark[0] for mark in triggers if isinstance(mark[0], int)} - alone)
    special = [t for t in range(vocab.n_tokens) if vocab.is_special(t) and not vocab.is_end(t)]
    # llguidance follows one of two overlapping sets of tokens, so a trigger's first token has its own set
    sets = [[t for t in special if t not in alone and t not in firsts], *([t] for t in firsts)]
    lines = [f"others: {' | '.join(map(_tokens, sets))}"]
    for i, mark in enumerate(pieces):
        lines += _of_mark(i, mark)
    lines.append(f"TEXT: {_without(_texts(unwanted))}")
    lines.append(" & ".join(["SAFE: TEXT", *(f"~({end})" for mark in triggers for end in _ends(mark))]))
    return "\n".join(lines) + "\n"


def _of_mark(i: int, mark: list[_Piece]) -> list[str]:
    parts = [_tokens([piece]) if isinstance(piece, int) else _quoted(piece) for piece in mark]
    if not parts:
        return [f'mark_{i}: ""']
    lines = [f"mark_{i}: {' '.join(parts)}"]
    if isinstance(mark[0], str):  # lazy: the first complete occurrence is the mark
        lines += [f"first_{i}[lazy]: {_SPACES} {parts[0]}", f"found_{i}[lazy]: {_ANY} {parts[0]}"]
        rest = " ".join(parts[1:])
        return [
            *lines,
            f"begin_{i}: first_{i} {rest}",
            f"until_{i}: found_{i} {rest}",
            f"trigger_{i}: until_{i}",
        ]
    rest = " ".join(parts[1:])
    if len(mark) > 1 and isinstance(mark[1], str):
        lines.append(f"rest_{i}[lazy]: {parts[1]}")
        rest = " ".join((f"rest_{i}", *parts[2:]))
    return [
        *lines,
        f"SPACES_{i}: {_SPACES}",
        f"begin_{i}: SPACES_{i} {parts[0]} {rest}",
        f"until_{i}: TEXT {parts[0]} {rest}",
        f"trigger_{i}: SAFE {parts[0]} {rest}",
    ]


def _ends(mark: list[_Piece]) -> list[str]:
    """Lark patterns of text that could be taken for a part of a trigger.

    Where a lazy rule is complete, `TEXT` is complete too, and a special token could follow it.
    """
    if isinstance(mark[0], str):
        return [f"{_ANY} {_quoted(mark[0])}"]
    return [_quoted(mark[1])] if len(mark) > 1 and isinstance(mark[1], str) else []


def _pieces(vocab: Vocab, mark: str) -> list[_Piece]:
    """A mark's special tokens and the text between them, without tokens that end an answer."""
    tokens = vocab.tokenize_inside(mark, parse_special=True)
    if b"".join(map(vocab.spelling, tokens)) != mark.encode():
        return [mark]
    pieces: list[int | bytes] = []
    for token in tokens:
        if vocab.is_end(token):
            continue
        if vocab.is_special(token):
            pieces.append(token)
        elif pieces and isinstance(pieces[-1], bytes):
            pieces[-1] += vocab.spelling(token)
        else:
            pieces.append(vocab.spelling(token))
    return [piece if isinstance(piece, int) else piece.decode() for piece in pieces]


def _texts(marks: list[list[_Piece]]) -> list[str]:
    return [mark[0] for mark in marks if len(mark) == 1 and isinstance(mark[0], str)]


def _without(texts: list[str]) -> str:
    """A Lark pattern for any text that contains none of `texts`."""
    return " & ".join([_ANY, *(f"~({_ANY} {_quoted(text)} {_ANY})" for text in texts)])


def _tokens(tokens: Sequence[int]) -> str:
    """llguidance's rule for one of ascending `tokens`."""
    ranges: list[list[int]] = []
    for token in tokens:
        if ranges and ranges[-1][1] == token - 1:
            ranges[-1][1] = token
        else:
            ranges.append([token, token])
    return f"<[{','.join(f'{a}-{b}' for a, b in ranges)}]>" if ranges else _NOTHING


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
