"""The application of `watch`: reads, keeps the history, draws, and answers keys."""

import asyncio
import time
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Static

from vram_llm.cli import terminal
from vram_llm.cli.watching.history import History
from vram_llm.cli.watching.layout import View, screen_lines
from vram_llm.cli.watching.panels import duration
from vram_llm.cli.watching.sources import SnapshotSource
from vram_llm.cli.watching.windows import Pace, SettingsScreen, help_screen, next_curve, warnings_screen
from vram_llm.errors import RequestError, ServerUnreachable

_FOOTER_LINES = 1


class WatchApp(App[None]):
    """Shows snapshots of `source` until a key ends it."""

    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None
    CSS = "Screen { overflow: hidden; } #panels { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,f10,ctrl+c", "quit", "Quit", key_display="q"),
        Binding("question_mark,f1", "help", "Help", key_display="?"),
        Binding("down,j", "choose(1)", "Choose", key_display="↑↓"),
        Binding("up,k", "choose(-1)", show=False),
        Binding("s,f6", "sort", "Sort", key_display="s"),
        Binding("plus", "direct(False)", show=False),
        Binding("minus", "direct(True)", show=False),
        Binding("c", "curve", "Curve"),
        Binding("w", "warnings", "Warnings"),
        Binding("f2", "settings", "Settings", key_display="F2"),
    ]

    def __init__(self, source: SnapshotSource, interval_s: float = 1.0) -> None:
        super().__init__()
        self.view = View(history=History())
        self._pace = Pace(interval_s)
        self._source = source
        self._panels = Static(id="panels", markup=False)
        self._gone_since: float | None = None

    def compose(self) -> ComposeResult:
        """One text with all panels, and the keys."""
        yield self._panels
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to read."""
        self.run_worker(self._read_on(), exclusive=True)

    def on_resize(self, _event: events.Resize) -> None:
        """Draw for the new size."""
        self.draw()

    def draw(self) -> None:
        """Draw the panels."""
        width, height = self.size
        lines = screen_lines(self.view, width, height - _FOOTER_LINES)
        text = Text("\n").join(terminal.styled(each) for each in lines)
        text.no_wrap = True
        self._panels.update(text)

    def action_choose(self, step: int) -> None:
        """Choose another device."""
        self.view.choose(step)
        self.draw()

    def action_sort(self) -> None:
        """Sort the programs by the next column."""
        self.view.sort = self.view.sort.next()
        self.draw()

    def action_direct(self, is_descending: bool) -> None:
        """Sort the programs in a direction."""
        self.view.sort = self.view.sort.directed(is_descending=is_descending)
        self.draw()

    def action_curve(self) -> None:
        """Show the next curve of the devices."""
        self.view.curve = next_curve(self.view.curve)
        self.draw()

    def action_settings(self) -> None:
        """Open the settings."""
        self.push_screen(SettingsScreen(self.view, self._pace), lambda _: self.draw())

    def action_help(self) -> None:
        """Open the help."""
        self.push_screen(help_screen())

    def action_warnings(self) -> None:
        """Open all warnings."""
        self.push_screen(warnings_screen(self.view))

    async def _read_on(self) -> None:
        """Read and draw until the application ends."""
        try:
            while True:
                await self._read()
                self.draw()
                await asyncio.sleep(self._pace.interval_s)  # the pace that the user has chosen
        finally:
            await self._source.close()

    async def _read(self) -> None:
        try:
            snapshot = await self._source.read()
        except (ServerUnreachable, RequestError) as error:
            now = time.monotonic()
            self._gone_since = self._gone_since or now
            self.view.gone = f"no answer for {duration(now - self._gone_since)}: {error}"
            return
        self._gone_since, self.view.gone = None, None
        self.view.snapshot = snapshot
        self.view.history.add(snapshot)
        self.view.choose(0)
