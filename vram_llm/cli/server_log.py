"""The server's log on standard error: escaped, with few lines of a kind."""

import logging
import time
from collections.abc import Callable
from copy import copy

from vram_llm.cli import terminal
from vram_llm.text.lines import escaped, printable

MOST_OF_A_KIND = 10  # lines with one wording within WINDOW_S
WINDOW_S = 60.0
_MOST_KINDS = 1000  # that are counted
_OF_CLIENTS = ("vram_llm.server", "uvicorn", "asyncio")  # loggers of lines that clients can cause


class EscapingFormatter(logging.Formatter):
    """A record is one line, and lines of its traceback. Control characters in them become "?"."""

    def format(self, record: logging.LogRecord) -> str:
        single = copy(record)
        single.msg, single.args = printable(record.getMessage()), None
        return escaped(super().format(single))


class RepeatFilter(logging.Filter):
    """Drops lines that clients can cause, after the first MOST_OF_A_KIND of one wording within WINDOW_S.

    The first line of the next window tells how many were dropped.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}  # by wording: begin, number of lines

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or not record.name.startswith(_OF_CLIENTS):
            return True
        kind, now = str(record.msg).partition("\n")[0], self._clock()
        if len(self._windows) >= _MOST_KINDS:
            self._windows.clear()
        begin, n = self._windows.get(kind, (now, 0))
        if now - begin >= WINDOW_S:
            if (n_dropped := n - MOST_OF_A_KIND) > 0:
                record.msg, record.args = f"{record.getMessage()} ({n_dropped:,} more like it before)", None
            begin, n = now, 0
        self._windows[kind] = begin, n + 1
        return n < MOST_OF_A_KIND


def set_up_log(*, verbose: bool) -> None:
    """Log to standard error: warnings and notices, or with `verbose` everything."""
    from rich.logging import RichHandler

    from vram_llm.engine.supervisor import NOTICES

    handler = RichHandler(console=terminal.console(stderr=True), show_path=False)
    handler.addFilter(RepeatFilter())
    handler.setFormatter(EscapingFormatter("%(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler])
    logging.getLogger(NOTICES).setLevel(logging.INFO)
    for noisy in ("asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
