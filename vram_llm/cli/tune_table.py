"""The progress and the result of `tune` as a table; plain lines where there is no terminal."""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from vram_llm.cli import terminal
from vram_llm.planner.report.figures import rate, rough_rate, seconds
from vram_llm.text.lines import Line, Style, line, printable, wrap
from vram_llm.text.table import Column, table
from vram_llm.workflows.tuning.results import TuneProgress, TuneResult, TuneRow

if TYPE_CHECKING:
    from rich.live import Live

_COLUMNS = (
    Column(title="plan", least=12),
    Column(title="expected", right=True),
    Column(title="tok/s", right=True),
    Column(title="prompts", right=True),
    Column(title="request", right=True),
    Column(title="gain", right=True),
    Column(title="noise", right=True),
    Column(title="loads", right=True),
)
_LEAST_WIDTH = 40


class TuneScreen:
    """Shows a run while it measures, on standard error: a table that changes, or lines."""

    def __init__(self, run_s: float) -> None:
        """`run_s` is the time of the run."""
        self._run_s = run_s
        self._live: Live | None = None

    def __enter__(self) -> "TuneScreen":
        console = terminal.console(stderr=True)
        if console.is_terminal:
            from rich.live import Live

            self._live = Live(console=console, transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: TuneProgress) -> None:
        """Show where the run is."""
        if self._live is None:
            if progress.measured is not None:
                terminal.say(measured_line(progress.phase, progress.measured), err=True)
            return
        from rich.console import Group

        left = line(f"{progress.phase}, {max(progress.left_s, 0):,.0f} s left", Style.DIM)
        lines = [*tuned_table(progress.rows, terminal.width(stderr=True)), left]
        self._live.update(Group(*map(terminal.styled, lines)), refresh=True)


def measured_line(phase: str, row: TuneRow) -> str:
    """The line of one measurement: "round 1 of 3: GPU0:12 GPU1:20, 23.4 tok/s, prompts 812 tok/s"."""
    if row.failed is not None:
        return f"{phase}: {row.name}, failed: {row.failed}"
    if row.tokens_per_s is None or row.prompt_tokens_per_s is None:
        return f"{phase}: {row.name}"
    return (
        f"{phase}: {row.name}, {rate(row.tokens_per_s)} tok/s, "
        f"prompts {rough_rate(row.prompt_tokens_per_s)} tok/s"
    )


def tuned_table(rows: Sequence[TuneRow], width: int) -> list[Line]:
    """A row for each candidate, within `width` columns; a failure has its reason in place of figures."""
    cells = [_cells(row) for row in rows]
    tried = (
        table(columns, [row[: len(columns)] for row in cells], max(width, _LEAST_WIDTH))
        for columns in (_COLUMNS, _COLUMNS[:6], _COLUMNS[:3])
    )
    shown = next((lines for lines in tried if lines is not None), None)
    if shown is None:
        shown = [line(measured_line("measured", row)) for row in rows]
    failures = [row for row in rows if row.failed is not None]
    return [*shown, *(each for row in failures for each in _failure(row, width))]


def print_tuned(result: TuneResult) -> None:
    """Print the table, what it was measured with, and the winner with its margin."""
    width = terminal.width()
    if not result.rows:
        terminal.show(wrap(verdict(result), width, Style.STRONG))
        return
    streams = "one stream" if result.streams == 1 else f"{result.streams} streams together"
    written = ", in text that the model writes" if result.by_generation else ""
    how = (
        f"tok/s of {streams} behind {result.depth:,} tokens each{written}, prompts of "
        f"{result.prompt_tokens:,}; "
        "request: a prompt and 512 tokens; gain: over the planner's choice (*) in the same passes; "
        "noise: half the range of the loads"
    )
    lines = [
        *wrap(result.model, width, Style.STRONG),
        *tuned_table(result.rows, width),
        *wrap(how, width, Style.DIM),
        *wrap(verdict(result), width, Style.STRONG),
    ]
    terminal.show(lines)


def verdict(result: TuneResult) -> str:
    """The sentence about the winner."""
    if not result.had_choice and not result.rows:
        return (
            f"There is nothing to choose: no other plan of {result.model} fits these devices and options, so "
            "nothing was measured, and plan and serve use the prediction's choice."
        )
    gain, margin = result.best_rival_gain, result.best_rival_margin
    if result.winner is None or result.tokens_per_s is None:
        return "No plan is kept: nothing was compared to the end."
    kept = "Kept for plan and serve" if result.kept else "Not kept, but the fastest"
    speed = f"{rate(result.tokens_per_s)} tok/s"
    if result.gain is not None and result.margin is not None:
        return (
            f"{kept}: {result.winner}, {speed}, {result.gain:.1%} over the prediction's choice "
            f"(+-{result.margin:.1%}, {result.n_pairs} pairs)."
        )
    if gain is None or margin is None:
        return f"{kept}: {result.winner}, {speed}."
    return (
        f"{kept}: the prediction's choice, {result.winner}, {speed}; the best other plan is {gain:+.1%} "
        f"(+-{margin:.1%}, {result.n_pairs} pairs), which is no certain gain."
    )


def _cells(row: TuneRow) -> list[str]:
    mark = " *" if row.is_predictions_choice else ""
    name = f"{row.name}{mark}{' <' if row.is_winner else ''}"
    expected = "" if row.expected_tokens_per_s is None else rate(row.expected_tokens_per_s)
    if row.failed is not None or row.tokens_per_s is None or row.prompt_tokens_per_s is None:
        return [name, expected, "failed" if row.failed else "-", "", "", "", "", str(row.n_measurements)]
    return [
        name,
        expected,
        rate(row.tokens_per_s),
        rough_rate(row.prompt_tokens_per_s),
        "" if row.request_s is None else seconds(row.request_s),
        "" if row.ratio is None else f"{row.ratio:+.1%}",
        "" if row.noise is None else f"{row.noise:.1%}",
        str(row.n_measurements),
    ]


def _failure(row: TuneRow, width: int) -> list[Line]:
    return wrap(f"{row.name} failed: {printable(row.failed or '')}", width, Style.BAD, "  ")
