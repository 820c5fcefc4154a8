"""The bar of a running load on standard error, and notes above it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vram_llm.bench.load_test import LoadWatch
from vram_llm.bench.outcome import RequestOutcome
from vram_llm.cli import terminal

_LOOKS_A_SECOND = 4  # few, since drawing shares the processor with the load


@contextmanager
def load_bar(*, hidden: bool) -> Iterator[LoadWatch]:
    """A bar while the block runs: the stage, requests done, tokens and failures so far."""
    console = terminal.console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[state]}", markup=False), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=hidden or not console.is_terminal,
        refresh_per_second=_LOOKS_A_SECOND,
    ) as bar:
        yield _watch(bar, console)


def _watch(bar: Progress, console: Console) -> LoadWatch:
    task = bar.add_task("connecting", total=None, state="")
    n_tokens, n_failed = 0, 0

    def on_stage(name: str, n: int) -> None:
        nonlocal n_tokens, n_failed
        n_tokens, n_failed = 0, 0
        bar.reset(task, description=name, total=n or None, state="")

    def on_done(outcome: RequestOutcome) -> None:
        nonlocal n_tokens, n_failed
        n_tokens += outcome.n_output
        n_failed += not outcome.is_complete
        failed = f", {n_failed:,} failed" if n_failed else ""
        bar.update(task, advance=1, state=f"{n_tokens:,} tokens{failed}")

    @cache  # a sweep has the same note for each load
    def on_note(note: str) -> None:
        console.print(f"note: {note}", markup=False, soft_wrap=True)

    return LoadWatch(on_stage, on_done, on_note)
