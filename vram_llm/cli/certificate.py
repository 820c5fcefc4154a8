"""Certificates as tables: planned bytes, held bytes, and the verdict on the budgets."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vram_llm.cli import terminal
from vram_llm.planner.memory_report import OF_CARD, Certificate, DeviceRow, KindRow
from vram_llm.units import format_bytes

_NARROW = 72  # columns; a narrower table has no remarks


def print_certificate(certificate: Certificate) -> None:
    """Print a row for each device and kind, the reason where a kind was not measured, and the verdict."""
    console = terminal.console()
    console.print(Text(certificate.model, style="bold"), soft_wrap=True)
    columns = ("device", "kind", "planned", "held", "difference", "")
    shown = columns if console.width >= _NARROW else columns[:-1]
    table = _table(*shown)
    for device in certificate.devices:
        for index, row in enumerate(device.kinds):
            table.add_row(device.id if index == 0 else "", *_kind_cells(row)[: len(shown) - 1])
        table.add_row("", *_total_cells(device)[: len(shown) - 1])
    console.print(table)
    console.print(f"planned by the {certificate.method} meter; held: what llama.cpp reports; = to the byte")
    readings = [device.overhead.how for device in certificate.devices if device.overhead is not None]
    if OF_CARD in readings:
        console.print("NVML reports no memory per process here: the growth includes other programs' memory")
    for note in certificate.notes:
        console.print(Text(f"note: {note}", style="dim"))
    _print_verdict(console, certificate)


def print_loaded(certificate: Certificate) -> None:
    """The short form, to standard error: a row for each device, llama.cpp's own buffers only."""
    console = terminal.console(stderr=True)
    kinds = [row.kind for row in certificate.devices[-1].kinds if row.held_bytes is not None]
    table = _table("device", *kinds)
    for device in certificate.devices:
        cells = {row.kind: _short(row) for row in device.kinds if row.kind in kinds}
        table.add_row(device.id, *(cells.get(kind, "") for kind in kinds))
    console.print(table)
    console.print("held by llama.cpp; = as planned, to the byte; in brackets: the difference from the plan")
    _print_verdict(console, certificate)


def _print_verdict(console: Console, certificate: Certificate) -> None:
    if certificate.exact_kinds:
        console.print(f"as planned on every device, to the byte: {', '.join(certificate.exact_kinds)}")
    console.print(Text(certificate.verdict, style="green" if certificate.within_budget else "red"))


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


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for name in columns:
        left = name in ("device", "kind", "")
        table.add_column(name, justify="left" if left else "right", no_wrap=bool(name))
    return table
