"""The forms of the log's lines. A record may have figures: `fields`, and `named` ones that its message shows.

Texts of clients cannot begin a new line, nor reach a terminal with control characters.
"""

import json
import logging
from copy import copy
from datetime import UTC, datetime
from typing import Any

from vram_llm.text.lines import escaped, printable

_COLOURS = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[31m"}
_AS_IT_IS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/,-+#@%")


class EscapingFormatter(logging.Formatter):
    """A record is one line, and lines of its traceback. Control characters in them become "?"."""

    def __init__(self, form: str = "%(message)s", *, colours: bool = False) -> None:
        super().__init__(form)
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        single = copy(record)
        figures = [f"{name}={_word(value)}" for name, value in _of(record, "fields").items()]
        single.msg, single.args = " ".join((printable(record.getMessage()), *figures)), None
        text = escaped(super().format(single))
        colour = _COLOURS.get(record.levelno) if self._colours else None
        return f"{colour}{text}\x1b[0m" if colour else text


class JsonFormatter(logging.Formatter):
    """A record is one JSON object in ASCII: time, level, logger, message, traceback, and its figures."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content | _of(record, "named") | _of(record, "fields"), default=str)


def _of(record: logging.LogRecord, name: str) -> dict[str, Any]:
    found: dict[str, Any] = getattr(record, name, {})
    return found


def _word(value: object) -> str:
    """A value as one word, or in quotes; quotes and control characters of texts are escaped as in JSON."""
    if type(value) is int:
        return str(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str) or (text and _AS_IT_IS.issuperset(text)):
        return printable(text)
    return printable(json.dumps(text, ensure_ascii=False))
