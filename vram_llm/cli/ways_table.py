"""Flags that change a plan, each with its gain and its cost."""

import textwrap
from collections.abc import Iterator, Sequence

from vram_llm.planner.types import Plan
from vram_llm.planner.ways import in_words, ranked_ways, useful_ways

FEW = 3
_TITLE = "ways  "
_INDENT = " " * len(_TITLE)
_GAP = 2
_LEGEND = "Add the flags to the plan's. Speeds are predicted; memory is of all devices, ~ estimated."


def ways_lines(plan: Plan, width: int, n_ways: int | None = FEW) -> list[str]:
    """A row for each of `n_ways` changes, the most useful first; None: for all, useful or not.

    The effect of a change follows its flags, or stands below them if `width` is too small.
    """
    ways = ranked_ways(plan) if n_ways is None else useful_ways(plan)[:n_ways]
    rows = [(way.flags, in_words(plan, way)) for way in ways]
    if not rows:
        return []
    lines = [line for row in _rows(rows, width) for line in row]
    return [_TITLE + lines[0].removeprefix(_INDENT), *lines[1:], *_wrapped(_LEGEND, width, _INDENT)]


def _rows(rows: Sequence[tuple[tuple[str, ...], str]], width: int) -> Iterator[list[str]]:
    room = width - len(_INDENT) - _GAP
    texts = [(" ".join(flags), flags, words) for flags, words in rows]
    column = max((len(text) for text, _, words in texts if len(text) + len(words) <= room), default=0)
    for text, flags, words in texts:
        if len(text) <= column and column + len(words) <= room:
            yield [f"{_INDENT}{text:<{column + _GAP}}{words}"]
        else:
            yield [*_flag_lines(flags, width), *_wrapped(words, width, 2 * _INDENT)]


def _flag_lines(flags: Sequence[str], width: int) -> list[str]:
    """Flags with their values, on one line, or on several that a shell joins if one line is too narrow."""
    text = " ".join(flags)
    if len(_INDENT) + len(text) > width:
        text = text.replace(" --", f" \\\n{_INDENT}--")
    return f"{_INDENT}{text}".split("\n")


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent)
