"""Print machines and plans in the terminal."""

from collections.abc import Sequence

from vram_llm.cli import terminal
from vram_llm.cli.plan_details import details
from vram_llm.cli.ways_table import FEW, ways_lines
from vram_llm.machine.assumed_speed import device_speed
from vram_llm.machine.types import Device, Fact, Machine, Source
from vram_llm.planner.report.figures import gib
from vram_llm.planner.report.reasons import why
from vram_llm.planner.report.text import body, head, notes
from vram_llm.planner.types import HOST, Plan
from vram_llm.text.lines import Line, Style, line, wrap
from vram_llm.text.names import short_name
from vram_llm.text.table import Column, table
from vram_llm.units import format_bytes


def print_machine(machine: Machine, reserve_bytes: int) -> None:
    """Print the devices with their usable memory, and the host."""
    width = terminal.width()
    lines: list[Line] = []
    if machine.devices:
        lines += _machine_table(machine.devices, reserve_bytes, width)
        sources = sorted({device.memory_source.value for device in machine.devices})
        reserve = format_bytes(reserve_bytes)
        how = f"GiB ({', '.join(sources)}); usable: free less a reserve of {reserve}."
        lines += wrap(how, width, Style.DIM)
    else:
        lines += wrap(
            "no GPU here; a model runs on the CPU, on workers (--rpc) or is planned for --gpu cards", width
        )
    host = machine.host
    lines += wrap(
        f"{HOST}: {host.name}, {host.cores} cores, {format_bytes(host.available_bytes)} "
        f"of {format_bytes(host.total_bytes)} memory available",
        width,
    )
    lines += [row for note in machine.notes for row in wrap(f"note: {note}", width, Style.DIM, "  ")]
    terminal.show([*lines, ()])


def print_plan(
    plan: Plan, next_command: str | None = None, *, n_ways: int | None = FEW, verbose: bool = False
) -> None:
    """Print the plan: answer, next command, each device's bytes, and `n_ways` changes; None: all changes."""
    width = terminal.width()
    lines = [*head(plan, width, next_command), *body(plan, width)]
    if verbose:
        lines += details(plan, width)
    if ways := ways_lines(plan, width, n_ways):
        lines += [(), *map(line, ways)]
    terminal.show([*lines, *notes(plan, width)])


def print_reasons(plan: Plan) -> None:
    """Print the reasons for the plan, one sentence per line."""
    width = terminal.width()
    terminal.show([(), *(row for reason in why(plan) for row in wrap(reason, width, indent="  "))])


def _machine_table(devices: Sequence[Device], reserve_bytes: int, width: int) -> list[Line]:
    id_width = max(len(device.id) for device in devices)
    wide = [
        (
            f"{device.id:<{id_width}}  {short_name(device.name)}",
            gib(device.total_bytes), gib(device.free_bytes), gib(device.budget_bytes(reserve_bytes)),
            f"{_bandwidth(device).value / 1e9:,.0f}", str(_bandwidth(device).source),
        )
        for device in devices
    ]  # fmt: skip
    names = ("total", "free", "usable", "GB/s")
    columns = [Column(title="device"), *(Column(title=name, right=True) for name in names), Column()]
    if (lines := table(columns, wide, width)) is not None:
        return lines
    narrow = [(row[0], row[3], row[4]) for row in wide]
    columns = [Column(title="device", least=8), columns[3], columns[4]]
    return table(columns, narrow, width) or table(columns, narrow, 1000) or []


def _bandwidth(device: Device) -> Fact:
    """Bytes that a device reads per second: measured, else from its datasheet, else assumed."""
    read = device_speed(device).read_bytes_per_s
    bandwidth = device.bandwidth_bytes_per_s
    return read if bandwidth is None or read.source is Source.MEASURED else bandwidth
