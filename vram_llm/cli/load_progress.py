"""Progress of a load: a bar in a terminal, elsewhere a line every ten seconds."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from vram_llm.cli import terminal
from vram_llm.units import GIB

if TYPE_CHECKING:
    from rich.progress import TaskID

    from vram_llm.engine.client import EngineClient

LINE_EVERY_S = 10.0


class _Display(Protocol):
    def show(self, fraction: float) -> None: ...
    def close(self) -> None: ...


class LoadProgress:
    """Shows progress on standard error, from the first state of a load to `close` or the end of the block.

    `total_bytes` is the size of the model's tensors.
    """

    def __init__(self, name: str, total_bytes: int) -> None:
        self._name, self._total_bytes = name, total_bytes
        self._display: _Display | None = None

    def on_state(self, engine: "EngineClient") -> None:
        """Show the progress of the first load."""
        if engine.info is not None:
            return
        if self._display is None:
            self._display = _Bar(self._name) if sys.stderr.isatty() else LoadLines(self._total_bytes)
        self._display.show(engine.load_fraction)

    def close(self) -> None:
        """Remove the bar."""
        if self._display is not None:
            self._display.close()
            self._display = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LoadLines:
    """A line every LINE_EVERY_S: "31 of 59 GiB, 2.1 GB/s, 13 s left"."""

    def __init__(
        self,
        total_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], None] = lambda line: terminal.say(line, err=True),
    ) -> None:
        self._total_bytes, self._clock, self._write = total_bytes, clock, write
        self._begun = self._last_line = clock()
        self._first_fraction: float | None = None

    def show(self, fraction: float) -> None:
        """Write a line if LINE_EVERY_S have passed since the last one. `fraction` is from 0 to 1."""
        now = self._clock()
        if self._first_fraction is None:
            self._begun, self._first_fraction = now, fraction
        if now - self._last_line < LINE_EVERY_S:
            return
        self._last_line = now
        bytes_per_s = (fraction - self._first_fraction) * self._total_bytes / max(now - self._begun, 1e-9)
        line = f"{_gib(fraction * self._total_bytes)} of {_gib(self._total_bytes)} GiB"
        if bytes_per_s > 0:
            seconds_left = (1 - fraction) * self._total_bytes / bytes_per_s
            line += f", {bytes_per_s / 1e9:.1f} GB/s, {seconds_left:.0f} s left"
        self._write(f"loading: {line}")

    def close(self) -> None:
        """Do nothing: the lines stay."""


class _Bar:
    def __init__(self, name: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("loading {task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
        )
        self._progress: Progress = Progress(
            *columns, TimeElapsedColumn(), console=terminal.console(stderr=True), transient=True
        )
        self._task: TaskID = self._progress.add_task(name, total=1.0)
        self._progress.start()

    def show(self, fraction: float) -> None:
        self._progress.update(self._task, completed=fraction)

    def close(self) -> None:
        self._progress.stop()


def _gib(n_bytes: float) -> str:
    """Gibibytes, without decimals from ten on."""
    size = n_bytes / GIB
    return f"{size:.0f}" if size >= 9.95 or size == 0 else f"{size:.1f}"
