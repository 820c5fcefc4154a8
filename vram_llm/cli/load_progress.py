"""The bar that shows how far a load is."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from vram_llm.engine.client import EngineClient


class LoadBar:
    """A bar on standard error from the first news of a load to `close`, or to the end of the block."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def on_state(self, engine: "EngineClient") -> None:
        """Move the bar while the first load is under way."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        if engine.info is not None:
            return
        if self._progress is None:
            columns = (
                TextColumn("loading {task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:.0f} %"),
            )
            self._progress = Progress(
                *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
            )
            self._task = self._progress.add_task(self._name, total=1.0)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=engine.load_fraction)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
