"""`watch --once`: one snapshot as a table."""

from rich.table import Table
from rich.text import Text

from vram_llm.cli import terminal
from vram_llm.cli.watching.history import History, ratio
from vram_llm.cli.watching.panels import (
    head_line,
    host_line,
    load_lines,
    model_lines,
    process_lines,
    request_lines,
    warning_lines,
)
from vram_llm.cli.watching.process_sort import ProcessSort
from vram_llm.cli.watching.snapshot import Snapshot
from vram_llm.machine.device_state import DeviceState
from vram_llm.text.lines import Style, line, printable
from vram_llm.text.names import short_name
from vram_llm.units import format_bytes

_TITLES = ("device", "GPU", "used", "of", "°C", "W", "link", "slowed by")
_UNKNOWN = "-"


def print_once(snapshot: Snapshot) -> None:
    """Print a snapshot: the devices as a table, then programs, requests and warnings."""
    out = terminal.console()
    width = out.width
    terminal.show([head_line(snapshot, None, width), *load_lines(snapshot, History(), width)])
    if snapshot.models:
        terminal.show([(), *model_lines(snapshot, width), ()])
    if snapshot.devices:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in _TITLES:
            table.add_column(title, justify="left" if title in ("device", "link", "slowed by") else "right")
        for device in snapshot.devices:
            table.add_row(*map(Text, _cells(device)))
        out.print(table)
    else:
        terminal.show([line("no NVIDIA driver answers here", Style.DIM)])
    if snapshot.host is not None:
        terminal.show([host_line(snapshot.host, width)])
    if any(device.processes for device in snapshot.devices):
        terminal.show([(), *process_lines(snapshot.devices, ProcessSort(), width)])
    if snapshot.requests:
        terminal.show([(), *request_lines(snapshot.requests, width)])
    if snapshot.warnings:
        terminal.show([(), *warning_lines(snapshot, width)])


def _cells(device: DeviceState) -> tuple[str, ...]:
    power = _UNKNOWN if device.power_w is None else f"{device.power_w:.0f}"
    limit = "" if device.power_limit_w is None else f"/{device.power_limit_w:.0f}"
    share = ratio(device.used_bytes, device.total_bytes)
    used = _UNKNOWN if device.used_bytes is None else format_bytes(device.used_bytes)
    return (
        f"{device.id} {short_name(printable(device.name))}",
        _UNKNOWN if device.utilization is None else f"{device.utilization:.0%}",
        used if share is None else f"{used} ({share:.0%})",
        _UNKNOWN if device.total_bytes is None else format_bytes(device.total_bytes),
        _UNKNOWN if device.temperature_c is None else str(device.temperature_c),
        power + limit,
        _UNKNOWN if device.pcie is None or device.pcie.width is None else str(device.pcie),
        ", ".join(device.throttle_reasons or ()),
    )
