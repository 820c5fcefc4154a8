"""Measured speeds as tables: calibrations of devices, and benchmarks of a plan."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from vram_llm.cli import terminal
from vram_llm.machine.calibration_store import CalibrationRecord
from vram_llm.machine.disk_store import DiskRecord
from vram_llm.machine.sum_store import SumRecord
from vram_llm.planner.measured_speed import MeasuredSpeed
from vram_llm.planner.report.figures import rate
from vram_llm.planner.types import CompanionKind, Plan

_BAD_FIT = 0.2
_NARROW = 72  # columns; in a narrower terminal a record is a list
_COLUMNS = ("read", "row", "prompt", "layer", "step", "split", "latency", "link", "fit")


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error while the block runs. Its callback takes a device name and the share done."""
    text = TextColumn("measuring {task.description}", markup=False)
    columns = (text, BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn())
    with Progress(*columns, console=terminal.console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda name, share: bar.update(task, description=name, completed=share)


def print_results(plan: Plan, results: Sequence[MeasuredSpeed]) -> None:
    """A row for each test: measured, the range of its rounds, and expected."""
    console = terminal.console()
    console.print(Text(f"{plan.model.name}, {plan.model.quantization}", style="bold"), soft_wrap=True)
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("test", no_wrap=True)
    for name in ("measured", "rounds", "expected", "off"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        low, high = min(result.rounds_tokens_per_s), max(result.rounds_tokens_per_s)
        expected = "-" if result.expected_tokens_per_s is None else rate(result.expected_tokens_per_s)
        off = "" if result.off is None else f"{result.off:+.0%}"
        table.add_row(result.test, rate(result.tokens_per_s), f"{rate(low)}-{rate(high)}", expected, off)
    console.print(table)
    bases = sorted({result.basis.value for result in results if result.basis is not None})
    basis = f"expected from {', '.join(bases)} figures" if bases else "expected: unknown"
    advice = "" if bases == ["measured"] else "; `vram-llm calibrate` measures these devices"
    console.print(f"tokens a second, medians; {basis}{advice}")
    if plan.context.n_mtp or any(companion.kind is CompanionKind.DRAFT for companion in plan.companions):
        console.print(
            "without drafts, whose gain depends on the text: `vram-llm bench serve` measures a served model"
        )


def print_records(records: Mapping[str, CalibrationRecord]) -> None:
    """Print a row for each device, and a legend of the columns."""
    console = terminal.console()
    if console.width < _NARROW:
        _print_down(console, records)
    else:
        _print_table(console, records)
    console.print(
        "read: weights and KV cache, GB/s; row, prompt: billions of operations a second, for each further "
        "row of a decode step and for a prompt; layer, step, split, latency: microseconds; link: GB/s; fit: "
        "root mean square error of the formula"
    )
    for name, record in records.items():
        _print_types(console, name, record)
    for name, record in records.items():
        console.print(
            Text(
                f"{name}: measured {record.measured_at[:10]} by vram-llm {record.vram_llm}, llama-cpp-python "
                f"{record.llama_cpp_python}"
                + (f", driver {record.driver}" if record.driver else "")
                + (f", by tune with {record.tuned_with}" if record.tuned_with else ""),
                style="dim",
            )
        )

    if badly := [name for name, record in records.items() if record.residual > _BAD_FIT]:
        console.print(Text(f"note: {'; '.join(badly)}: measured while something else ran? Measure again."))


def print_sums(records: Mapping[str, SumRecord]) -> None:
    """Print a line for each group of devices."""
    console = terminal.console()
    for key, record in records.items():
        cost = f"{_number(record.latency_s, 1e-6)} us and {_number(record.bytes_per_s, 1e9)} GB/s"
        how = f"measured {record.measured_at[:10]} by vram-llm {record.vram_llm}, llama-cpp-python "
        console.print(Text(f"sum of a tensor split over {key}: {cost}"))
        console.print(Text(how + record.llama_cpp_python, style="dim"))


def print_disks(records: Mapping[str, DiskRecord]) -> None:
    """Print a line for each disk."""
    console = terminal.console()
    for key, record in records.items():
        rate = f"{_number(record.read_bytes_per_s, 1e9)} GB/s"
        how = f"measured {record.measured_at[:10]} by vram-llm {record.vram_llm} on {record.file}"
        console.print(Text(f"disk {key}: {rate}"), Text(how, style="dim"))


def _print_down(console: Console, records: Mapping[str, CalibrationRecord]) -> None:
    for name, record in records.items():
        console.print(Text(name, style="bold"))
        for column, cell in zip(_COLUMNS, _cells(record), strict=True):
            console.print(f"  {column:<8}{cell:>9}")


def _print_table(console: Console, records: Mapping[str, CalibrationRecord]) -> None:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("device", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, record in records.items():
        table.add_row(Text(name), *_cells(record))
    console.print(table)


def _print_types(console: Console, name: str, record: CalibrationRecord) -> None:
    """A row for each type of weights that a processor was measured with."""
    if record.types is None or record.threads is None:
        return
    threads = "1 thread" if record.threads == 1 else f"{record.threads} threads"
    console.print(Text(f"{name}, by the type of weights, with {threads}:"))
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("type", no_wrap=True)
    for column in ("read", "row", "prompt"):
        table.add_column(column, justify="right", no_wrap=True)
    for type_name, each in record.types.items():
        rates = (each.read_bytes_per_s, each.row_flops_per_s, each.prompt_flops_per_s)
        table.add_row(type_name, *(_number(rate, 1e9) for rate in rates))
    console.print(table)
    if record.expert_read_share is not None and record.attention_flops_per_s is not None:
        console.print(
            f"experts are read at {record.expert_read_share:.0%} of these rates; "
            f"attention over an f16 cache: {_number(record.attention_flops_per_s, 1e9)}"
        )


def _cells(record: CalibrationRecord) -> tuple[str, ...]:
    return (
        _number(record.read_bytes_per_s, 1e9),
        _number(record.row_flops_per_s, 1e9),
        _number(record.prompt_flops_per_s, 1e9),
        _number(record.layer_overhead_s, 1e-6),
        _number(record.step_overhead_s, 1e-6),
        _number(record.split_s, 1e-6),
        _number(record.link_latency_s, 1e-6),
        _number(record.link_bytes_per_s, 1e9),
        f"±{record.residual:.0%}",
    )


def _number(value: float | None, unit: float) -> str:
    """Three figures, or "-" if the value is unknown."""
    if value is None:
        return "-"
    scaled = value / unit
    return f"{scaled:,.0f}" if scaled >= 99.5 else f"{scaled:.3g}"
