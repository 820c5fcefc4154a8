"""The windows over the panels: settings (F2), all warnings (w) and help (?)."""

from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from vram_llm.cli.watching.history import Curve
from vram_llm.cli.watching.layout import View

INTERVALS_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_HELP = """\
up, down, j, k   choose a device; it has one more line of facts
s, F6            sort the programs by the next column
+, -             sort upwards, downwards
c                next curve: GPU use, memory, power, temperature
w                all warnings, each with what to do
F2               settings
?, F1            this help
q, F10, Ctrl+C   quit

PCIe 1@16x of 4@16x: generation and lanes of the link now, and
at most. An idle card lowers the generation. RX goes to the card.
The docs (watch.md) say what each warning means."""


@dataclass(slots=True)
class Pace:
    """The time between two readings."""

    interval_s: float = 1.0

    def next(self) -> None:
        """The next of INTERVALS_S."""
        later = (interval for interval in INTERVALS_S if interval > self.interval_s)
        self.interval_s = next(later, INTERVALS_S[0])


class TextScreen(ModalScreen[None]):
    """A text that scrolls."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,w,question_mark,f1,f10,enter", "dismiss", "Close")
    ]
    CSS = """
    TextScreen { align: center middle; }
    TextScreen VerticalScroll { width: 90%; max-width: 100; height: auto; max-height: 100%; padding: 0 1;
        border: round $primary; background: $surface; }
    """

    def __init__(self, title: str, text: Text) -> None:
        super().__init__()
        self._heading, self._text = title, text

    def compose(self) -> ComposeResult:
        """The text."""
        with VerticalScroll() as scroll:
            scroll.border_title = f"{self._heading}: Esc closes"
            yield Static(self._text)


def help_screen() -> TextScreen:
    """The keys."""
    return TextScreen("help", Text(_HELP))


def warnings_screen(view: View) -> TextScreen:
    """All warnings in full."""
    found = () if view.snapshot is None else view.snapshot.warnings
    return TextScreen("warnings", Text("\n\n".join(each.text for each in found) or "Nothing is wrong."))


class SettingsScreen(ModalScreen[None]):
    """Interval, curve and order; Enter takes the next value of the highlighted one."""

    AUTO_FOCUS = "OptionList"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,f2,f10", "dismiss", "Close")]
    CSS = """
    SettingsScreen { align: center middle; }
    SettingsScreen OptionList { width: 44; max-width: 100%; height: auto; border: round $primary; }
    """

    def __init__(self, view: View, pace: Pace) -> None:
        super().__init__()
        self._view, self._pace = view, pace

    def compose(self) -> ComposeResult:
        """The list."""
        options = OptionList(*(Option(prompt, id=name) for name, prompt in self._prompts().items()))
        options.border_title = "settings: Enter changes, Esc closes"
        yield options

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take the next value."""
        match event.option.id:
            case "interval":
                self._pace.next()
            case "curve":
                self._view.curve = next_curve(self._view.curve)
            case "sort":
                self._view.sort = self._view.sort.next()
        options = self.query_one(OptionList)
        for name, prompt in self._prompts().items():
            options.replace_option_prompt(name, prompt)

    def _prompts(self) -> dict[str, str]:
        return {
            "interval": f"a reading every {self._pace.interval_s:g} s",
            "curve": f"curve: {self._view.curve}",
            "sort": f"programs sorted by {self._view.sort.column}",
        }


def next_curve(shown: Curve) -> Curve:
    """The curve after `shown`."""
    curves = list(Curve)
    return curves[(curves.index(shown) + 1) % len(curves)]
