"""Cuts a code base into parts that fit the context: whole files together, large ones in pieces."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from examples.modernizer.code_base import Count, SourceFile


@dataclass(frozen=True, slots=True)
class Part:
    """What one round of agents reads. `within` is what it is a part of: a module, or the system."""

    name: str
    within: str
    text: str


def cut(files: Iterable[SourceFile], budget: int, overlap: int, count: Count) -> list[Part]:
    """Parts of at most `budget` tokens, each of one module; pieces of a larger file share `overlap` lines.

    Raises ValueError where a single line is larger than the budget.
    """
    parts = []
    for module, members in groupby(sorted(files, key=lambda f: (f.module, f.path)), key=lambda f: f.module):
        pieces = [piece for file in members for piece in _pieces(file, budget, overlap, count)]
        parts += together(pieces, module, budget, count)
    return parts


def together(pieces: Iterable[tuple[str, str]], within: str, budget: int, count: Count) -> list[Part]:
    """(name, text) pairs in as few parts as their order and `budget` allow."""
    parts: list[Part] = []
    names: list[str] = []
    texts: list[str] = []
    used = 0
    for name, text in pieces:
        tokens = count(text)
        if texts and used + tokens > budget:
            parts.append(Part(", ".join(names), within, "\n\n".join(texts)))
            names, texts, used = [], [], 0
        names.append(name)
        texts.append(text)
        used += tokens
    return [*parts, Part(", ".join(names), within, "\n\n".join(texts))] if texts else parts


def _pieces(file: SourceFile, budget: int, overlap: int, count: Count) -> Iterator[tuple[str, str]]:
    lines = file.text.splitlines()
    whole = _shown(file.path, lines, 0)
    if count(whole) <= budget:
        yield file.path, whole
        return
    per_line = max(1.0, file.tokens / max(1, len(lines)))
    start = 0
    while start < len(lines):
        size = max(1, int(budget / per_line))
        while count(text := _shown(file.path, lines[start : start + size], start)) > budget:
            if size == 1:
                raise ValueError(f"{file.path}, line {start + 1} alone is more than {budget} tokens")
            size = max(1, size * 9 // 10)
        end = min(start + size, len(lines))
        yield f"{file.path}:{start + 1}-{end}", text
        if end == len(lines):
            return
        start = max(start + 1, end - overlap)


def _shown(path: str, lines: list[str], start: int) -> str:
    return "\n".join([f"=== {path}, from line {start + 1}", *lines])
