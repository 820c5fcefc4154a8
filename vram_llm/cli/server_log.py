"""The server's log on standard error and in a file, with few lines of a kind."""

import logging
import os
import sys
from collections.abc import Sequence
from logging.handlers import WatchedFileHandler
from typing import TextIO

import click

from vram_llm.cli import terminal
from vram_llm.server.config import LogFormat, ServerConfig
from vram_llm.text.log_lines import EscapingFormatter, JsonFormatter
from vram_llm.text.repeat_filter import RepeatFilter


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what is standard error now: a bar of progress puts itself in between for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class LogFile(WatchedFileHandler):
    """A file that is begun anew when it was moved or removed. Lines that cannot be written are lost."""

    _has_failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line; the first failure is a line of standard error."""
        try:
            super().emit(record)
        except OSError:  # while it is opened anew
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Say once that the file cannot be written."""
        if not self._has_failed:
            self._has_failed = True
            terminal.say(f"the log file {self.baseFilename} cannot be written: {sys.exc_info()[1]}", err=True)


class _Everywhere(logging.Handler):
    """Passes each record to several handlers, so that a filter sees it once."""

    def __init__(self, handlers: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._handlers = handlers

    def emit(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            handler.handle(record)


def set_up_log(config: ServerConfig) -> None:
    """Log to standard error, and to a file if there is one: warnings, notices, requests and load.

    With `config.verbose` everything. Raises UsageError for a file that cannot be written.
    """
    from vram_llm.engine.supervisor import NOTICES

    handlers: list[logging.Handler] = [_StandardError(sys.stderr)]
    handlers[0].setFormatter(_formatter(config.log_format, colours=_has_colours()))
    if config.log_file is not None:
        try:
            handlers.append(LogFile(config.log_file, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise click.UsageError(
                f"--log-file {config.log_file} cannot be written: {error.strerror or error}"
            ) from None
        handlers[1].setFormatter(_formatter(config.log_format, colours=False))
    everywhere = _Everywhere(handlers)
    everywhere.addFilter(RepeatFilter())
    logging.basicConfig(level=logging.DEBUG if config.verbose else logging.WARNING, handlers=[everywhere])
    if not config.verbose:
        for shown in (NOTICES, "vram_llm.requests", "vram_llm.load", "vram_llm.server"):
            logging.getLogger(shown).setLevel(logging.INFO)
    for noisy in ("asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _formatter(form: LogFormat, *, colours: bool) -> logging.Formatter:
    if form is LogFormat.JSON:
        return JsonFormatter()
    return EscapingFormatter("%(asctime)s %(levelname)s %(message)s", colours=colours)


def _has_colours() -> bool:
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
