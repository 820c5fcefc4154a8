"""Curves, bars and facts as lines of text. Pure functions; widths are columns of a terminal."""

from collections.abc import Iterable, Sequence

from vram_llm.text.lines import EMPTY, FULL, Line, Span, Style, line, text_of

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_GAP = "  "


def curve(values: Sequence[float | None], width: int, rows: int = 1, top: float = 1.0) -> list[str]:
    """The last `width` values as columns that grow up to `top`, the newest at the right, in `rows` lines.

    Any value above 0 is seen. An unknown value is a space.
    """
    shown = list(values)[-width:] if width > 0 else []
    heights = [_height(value, rows, top) for value in shown]
    lines = []
    for row in range(rows - 1, -1, -1):
        columns = (_EIGHTHS[min(max(height - 8 * row, 0), 8)] for height in heights)
        lines.append("".join(columns).rjust(max(width, 0)))
    return lines


def _height(value: float | None, rows: int, top: float) -> int:
    """Eighths of a line."""
    if not value or top <= 0:
        return 0
    return min(max(round(value / top * 8 * rows), 1), 8 * rows)


def gauge(share: float | None, width: int, tight: float | None = None) -> Line:
    """A bar of `width` columns; above `tight` it has the colour of what is nearly full."""
    if share is None:
        return line(EMPTY * width, Style.DIM)
    filled = min(round(share * width), width)
    filled = max(filled, 1) if share > 0 else 0
    style = Style.TIGHT if tight is not None and share > tight else Style.GOOD
    return (Span(FULL * filled, style), Span(EMPTY * (width - filled), Style.DIM))


def flow(facts: Iterable[str], width: int, rows: int) -> list[str]:
    """Facts in `rows` lines of at most `width`, in their order; those without room are left out."""
    lines = [""]
    for fact in facts:
        longer = f"{lines[-1]}{_GAP}{fact}" if lines[-1] else fact
        if len(longer) <= width:
            lines[-1] = longer
        elif len(lines) < rows and len(fact) <= width:
            lines.append(fact)
    return [*lines, *[""] * (rows - len(lines))]


def fitted(parts: Line, width: int) -> Line:
    """A line cut to `width` columns."""
    kept: list[Span] = []
    left = width
    for span in parts:
        if left <= 0:
            break
        kept.append(Span(span.text[:left], span.style))
        left -= len(span.text)
    return tuple(kept)


def padded(parts: Line, width: int) -> Line:
    """A line of exactly `width` columns."""
    cut = fitted(parts, width)
    return (*cut, Span(" " * (width - len(text_of(cut)))))
