"""A saved plan against the memory that is free now, as a table."""

from collections.abc import Sequence

from vram_llm.cli import terminal
from vram_llm.planner.recheck import DeviceFit
from vram_llm.planner.report.figures import gib
from vram_llm.planner.types import Plan
from vram_llm.text.lines import Line, Style, bar, wrap
from vram_llm.text.names import short_name
from vram_llm.text.table import Cell, Column, table

_BAR = 8


def print_device_fits(plan: Plan, fits: Sequence[DeviceFit]) -> None:
    """Print the verdict, and each device's planned bytes and its budget now."""
    width = terminal.width()
    id_width = max(len(fit.id) for fit in fits)
    rows: list[Sequence[Cell]] = [
        (
            f"{fit.id:<{id_width}}  {short_name(fit.name)}",
            bar(fit.needed_bytes / max(fit.budget_bytes, 1), _BAR),
            *map(gib, (fit.needed_bytes, fit.budget_bytes)),
        )
        for fit in fits
    ]
    figures = (Column(title="used", right=True), Column(title="of GiB", right=True))
    columns = (Column(title="device", least=12), Column(), *figures)
    lines: list[Line] = wrap(f"{plan.model.name} {plan.model.quantization} still fits.", width, Style.STRONG)
    lines += table(columns, rows, width) or []
    lines += wrap("used: as planned; of: free now less the reserve.", width, Style.DIM)
    terminal.show(lines)
