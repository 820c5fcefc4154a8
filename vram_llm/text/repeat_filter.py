"""A filter of logs that lets few lines of a kind through."""

import logging
import time
from collections.abc import Callable

MOST_OF_A_KIND = 10  # lines with one wording within WINDOW_S
WINDOW_S = 60.0
_MOST_KINDS = 1000  # that are counted
# Loggers of lines that clients can cause, and of those that a collector of traces that is away causes.
_OF_OTHERS = ("vram_llm.server", "uvicorn", "asyncio", "opentelemetry")


class RepeatFilter(logging.Filter):
    """Drops lines that clients can cause, after the first MOST_OF_A_KIND of one wording within WINDOW_S.

    The first line of the next window says how many were dropped.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}  # by wording: begin, number of lines

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO or not record.name.startswith(_OF_OTHERS):
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
