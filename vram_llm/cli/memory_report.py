"""The memory report as tables: planned bytes, held bytes, and the verdict on the budgets."""

from collections.abc import Sequence

from vram_llm.cli import terminal
from vram_llm.planner.memory_report import OF_CARD, DeviceRow, KindRow, MemoryReport
from vram_llm.text.lines import Line, Style, line, wrap
from vram_llm.text.table import Column, table
from vram_llm.units import format_bytes

_DEVICE = Column(title="device")
_FIGURES = (
    Column(title="kind"),
    *(Column(title=name, right=True) for name in ("planned", "held", "difference")),
)


def print_memory_report(report: MemoryReport) -> None:
    """Print a row for each device and kind, the reason if a kind was not measured, and the verdict."""
    width = terminal.width()
    lines = wrap(report.model, width, Style.STRONG) + _figures(report, width)
    how = f"planned by the {report.method} meter; held: what llama.cpp reports; = to the byte"
    lines += wrap(how, width, Style.DIM)
    readings = [device.overhead.how for device in report.devices if device.overhead is not None]
    if OF_CARD in readings:
        growth = "NVML reports no memory per process here: the growth includes other programs' memory"
        lines += wrap(growth, width, Style.DIM)
    lines += [row for note in report.notes for row in wrap(f"note: {note}", width, Style.DIM, "  ")]
    terminal.show(lines + _verdict(report, width))


def print_loaded(report: MemoryReport) -> None:
    """The short form, to standard error: a row for each device, llama.cpp's own buffers only."""
    width = terminal.width(stderr=True)
    kinds = [row.kind for row in report.devices[-1].kinds if row.held_bytes is not None]
    cells = [
        {row.kind: _short(row) for row in device.kinds if row.kind in kinds} for device in report.devices
    ]
    columns = [_DEVICE, *(Column(title=kind, right=True) for kind in kinds)]
    rows = [
        (device.id, *(of.get(kind, "") for kind in kinds))
        for device, of in zip(report.devices, cells, strict=True)
    ]
    lines = table(columns, rows, width)
    if lines is None:
        lines = []
        for device, of in zip(report.devices, cells, strict=True):
            figures = ", ".join(f"{kind} {figure}" for kind, figure in of.items())
            lines += wrap(f"{device.id}: {figures}", width, indent="  ")
    legend = "held by llama.cpp; = as planned, to the byte; in brackets: the difference from the plan"
    lines += wrap(legend, width, Style.DIM)
    terminal.show(lines + _verdict(report, width), stderr=True)


def _figures(report: MemoryReport, width: int) -> list[Line]:
    """The table with remarks; without them if `width` is too small for it; else a table for each device."""
    rows: list[Sequence[str]] = []
    for device in report.devices:
        cells = [*map(_kind_cells, device.kinds), _total_cells(device)]
        rows += [(device.id if i == 0 else "", *kind_cells) for i, kind_cells in enumerate(cells)]
    for n_columns in (6, 5):
        columns = (_DEVICE, *_FIGURES, Column())[:n_columns]
        if (lines := table(columns, [row[:n_columns] for row in rows], width)) is not None:
            return lines
    lines = []
    for device in report.devices:
        cells = [*map(_kind_cells, device.kinds), _total_cells(device)]
        lines.append(line(device.id, Style.STRONG))
        columns = (*_FIGURES[:3], Column(right=True))
        lines += table(columns, [kind_cells[:4] for kind_cells in cells], width) or []
    return lines


def _verdict(report: MemoryReport, width: int) -> list[Line]:
    style = Style.GOOD if report.within_budget else Style.BAD
    lines = wrap(report.verdict, width, style)
    if report.exact_kinds:
        exact = f"as planned on every device, to the byte: {', '.join(report.exact_kinds)}"
        lines = wrap(exact, width) + lines
    if (logits := report.logits) is not None:
        lines += wrap(logits.verdict, width, Style.GOOD if logits.agrees else Style.BAD)
    return lines


def _kind_cells(row: KindRow) -> tuple[str, str, str, str, str]:
    if row.held_bytes is None:
        return row.kind, format_bytes(row.planned_bytes), "-", "", f"not measured: {row.how}"
    how = row.how if row.kind == "overhead" else ""
    return (
        row.kind, format_bytes(row.planned_bytes), format_bytes(row.held_bytes),
        _difference(row.planned_bytes, row.held_bytes), how,
    )  # fmt: skip


def _total_cells(device: DeviceRow) -> tuple[str, str, str, str, str]:
    difference = _difference(device.planned_bytes, device.held_bytes)
    budget = f"budget {format_bytes(device.budget_bytes)}"
    return "total", format_bytes(device.planned_bytes), format_bytes(device.held_bytes), difference, budget


def _short(row: KindRow) -> str:
    assert row.held_bytes is not None  # llama.cpp's own buffers always are
    if row.held_bytes == row.planned_bytes:
        return f"= {format_bytes(row.held_bytes)}"
    return f"{format_bytes(row.held_bytes)} ({_difference(row.planned_bytes, row.held_bytes)})"


def _difference(planned: int, held: int) -> str:
    more = held - planned
    return "=" if not more else f"{'+' if more > 0 else ''}{format_bytes(more)}"
