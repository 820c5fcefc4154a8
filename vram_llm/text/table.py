"""Tables without lines, as wide as their cells."""

from collections.abc import Sequence
from dataclasses import dataclass

from vram_llm.text.lines import Line, Span, Style, line, printable, shorten, text_of

GAP = 2  # spaces between columns
Cell = str | Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column and how its cells are set. Below `least` characters it is not shortened; None: never."""

    title: str = ""
    right: bool = False
    least: int | None = None
    style: Style = Style.PLAIN


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[Line] | None:
    """The header, if a column has a title, and the rows; None if they need more than `width`.

    A row with fewer cells than columns has its last cell over the rest.
    """
    cells = [[_spans(cell, column) for cell, column in zip(row, columns, strict=False)] for row in rows]
    whole = [[len(text_of(cell)) for cell in row] for row in cells]
    full = [row for row in whole if len(row) == len(columns)]
    counted = [*full, *(row[:-1] for row in whole if len(row) < len(columns))]
    widths = [
        max([len(column.title), *(row[i] for row in counted if i < len(row))])
        for i, column in enumerate(columns)
    ]
    for i, column in enumerate(columns):
        over = _total(widths, whole) - width
        if over > 0 and column.least is not None:
            widths[i] = max(widths[i] - over, min(column.least, widths[i]))
    if _total(widths, whole) > width:
        return None
    header = [line(column.title, Style.DIM) for column in columns]
    shown = [header, *cells] if any(column.title for column in columns) else cells
    return [_row(row, columns, widths) for row in shown]


def _total(widths: Sequence[int], rows: Sequence[Sequence[int]]) -> int:
    """The width of the table: that of its columns, or of the longest row whose last cell covers the rest."""
    over_the_rest = (
        sum(widths[: len(row) - 1]) + GAP * (len(row) - 1) + row[-1] for row in rows if len(row) < len(widths)
    )
    return max([sum(widths) + GAP * (len(widths) - 1), *over_the_rest])


def _spans(cell: Cell, column: Column) -> Line:
    return line(printable(cell), column.style) if isinstance(cell, str) else cell


def _row(row: Sequence[Line], columns: Sequence[Column], widths: Sequence[int]) -> Line:
    spans: list[Span] = []
    for i, (cell, column, width) in enumerate(zip(row, columns, widths, strict=False)):
        is_last = i == len(row) - 1
        shown = cell if is_last and len(row) < len(columns) else _cut(cell, width)
        space = Span(" " * max(width - len(text_of(shown)), 0))
        spans += [*shown, space] if not column.right else [space, *shown]
        if not is_last:
            spans.append(Span(" " * GAP))
    return tuple(span for span in spans if span.text)


def _cut(cell: Line, width: int) -> Line:
    if len(text_of(cell)) <= width:
        return cell
    return line(shorten(text_of(cell), width), cell[0].style)
