"""GET /logs: the last lines of the server's log."""

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from fastapi import APIRouter, Request
from pydantic import BaseModel

from vram_llm.errors import RequestError
from vram_llm.server.errors import MissingScope
from vram_llm.server.openapi import refusals
from vram_llm.server.serving_context import ServingContext
from vram_llm.text.log_lines import EscapingFormatter
from vram_llm.text.repeat_filter import RepeatFilter

KEPT = 500  # records
MAX_CHARS = 2000  # of a record; the rest is cut
_MOST_DIGITS = 18
_AFTER = {
    "name": "after", "in": "query", "required": False,
    "description": "Only lines with a larger number", "schema": {"type": "integer", "minimum": 0},
}  # fmt: skip


class LogLine(BaseModel):
    """A record. `n` counts all records since the start; `time` is in Unix seconds."""

    n: int
    time: float
    level: str
    text: str


class Logs(BaseModel):
    """The reply to GET /logs. `last` is the number to send as `after` next time; 0: there was no record."""

    lines: list[LogLine]
    last: int


class LogRing(logging.Handler):
    """Keeps the last records. Control characters in them become "?", except line ends of tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[LogLine] = deque(maxlen=KEPT)
        self._numbers = count(1)
        self._formatter = EscapingFormatter()
        self.addFilter(RepeatFilter())

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        try:
            text = self._formatter.format(record)
        except Exception:  # as every handler does
            self.handleError(record)
            return
        self._lines.append(
            LogLine(
                n=next(self._numbers),
                time=record.created,
                level=record.levelname.lower(),
                text=text[:MAX_CHARS],
            )
        )

    def after(self, number: int) -> Logs:
        """The records that are newer than the one of that number; all, if it is of a server before this."""
        kept = list(self._lines)
        newest = kept[-1].n if kept else 0
        return Logs(lines=[line for line in kept if line.n > number or number > newest], last=newest)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep what the program logs until the block ends."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)


def logs_router(ring: LogRing, serving: ServingContext) -> APIRouter:
    """The route for the log. On a server that is open to everybody (--insecure) nobody reads it."""
    router = APIRouter(tags=["dashboard"])

    @router.get(
        "/logs",
        summary="The last lines of the log",
        responses=refusals(400, 401, 403),
        openapi_extra={"parameters": [_AFTER]},
    )
    async def logs(http: Request) -> Logs:
        if serving.is_asked_by_stranger:
            raise MissingScope("The log of a server that is open to everybody is not shown; set an API key")
        after = http.query_params.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) <= _MOST_DIGITS):
            raise RequestError(f"'after' must be the number of a line, got {after[:40]!r}", "after")
        return ring.after(int(after))

    return router
