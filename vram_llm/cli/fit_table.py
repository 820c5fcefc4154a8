"""A saved plan against the memory that is free now, as a table."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from vram_llm.cli import terminal
from vram_llm.planner.recheck import DeviceFit
from vram_llm.planner.types import Plan
from vram_llm.units import format_mib


def print_device_fits(plan: Plan, fits: Sequence[DeviceFit]) -> None:
    """Print the verdict, and each device's planned bytes, budget now and difference."""
    console = terminal.console()
    console.print(Text(f"{plan.model.name}, {plan.model.quantization}: still fits", style="bold"))
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for name in ("device", "total", "budget", "left", "name"):
        table.add_column(name, justify="left" if name in ("device", "name") else "right", no_wrap=True)
    for fit in fits:
        figures = (fit.needed_bytes, fit.budget_bytes, -fit.over_bytes)
        table.add_row(fit.id, *map(format_mib, figures), Text(fit.name, overflow="ellipsis"))
    console.print(table)
    console.print("MiB; total as planned, budget = free now less reserve")
