"""The server's log: one line a record, no control characters, few lines of a kind."""

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.text import Text

from vram_llm.cli import terminal
from vram_llm.cli.escaping_console import EscapingConsole
from vram_llm.cli.server_log import MOST_OF_A_KIND, WINDOW_S, EscapingFormatter, RepeatFilter

HOSTILE = "a\x1b]0;owned\x07\r\nWARNING b\u202ec\x9b2J"


@pytest.fixture
def lines() -> Iterator[tuple[logging.Logger, io.StringIO, list[float]]]:
    """A logger of the server, what it writes, and the time."""
    now = [0.0]
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RepeatFilter(lambda: now[0]))
    handler.setFormatter(EscapingFormatter("%(message)s"))
    logger = logging.getLogger("vram_llm.server.test_of_lines")
    logger.addHandler(handler)
    logger.propagate = False
    yield logger, stream, now
    logger.removeHandler(handler)


def test_a_record_is_one_line(lines: tuple[logging.Logger, io.StringIO, list[float]]) -> None:
    logger, stream, _ = lines
    logger.warning("client: %s", HOSTILE)
    assert stream.getvalue() == "client: a?]0;owned???WARNING b?c?2J\n"


def test_a_traceback_has_lines(lines: tuple[logging.Logger, io.StringIO, list[float]]) -> None:
    logger, stream, _ = lines
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.exception("failed")
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().startswith("failed\nTraceback (most recent call last):\n  File")


def test_few_lines_of_a_kind(lines: tuple[logging.Logger, io.StringIO, list[float]]) -> None:
    logger, stream, now = lines
    for i in range(100):
        logger.warning("bad request %d", i)
    logger.warning("another kind")
    assert stream.getvalue().count("\n") == MOST_OF_A_KIND + 1
    now[0] = WINDOW_S
    logger.warning("bad request %d", 100)
    assert stream.getvalue().endswith(f"bad request 100 ({100 - MOST_OF_A_KIND} more like it before)\n")


def test_kinds_are_kinds_of_first_lines_and_not_counted_for_ever() -> None:
    repeats = RepeatFilter()
    for i in range(10_000):
        assert repeats.filter(logging.LogRecord("asyncio", logging.ERROR, "", 1, f"kind {i}", None, None))
    assert len(repeats._windows) <= 1000
    asked = [
        repeats.filter(logging.LogRecord("asyncio", logging.ERROR, "", 1, f"failed\ntask {i}", None, None))
        for i in range(100)
    ]
    assert sum(asked) == MOST_OF_A_KIND


def test_lines_of_the_engine_are_all_there() -> None:
    record = logging.LogRecord("vram_llm.engine", logging.ERROR, "", 1, "died", None, None)
    repeats = RepeatFilter()
    assert all(repeats.filter(record) for _ in range(1000))


def test_the_terminal_gets_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.say(f"{HOSTILE}\tend", err=True)
    assert capsys.readouterr().err == "a?]0;owned??\nWARNING b?c?2J\tend\n"
    stream = io.StringIO()
    EscapingConsole(file=stream, force_terminal=True, width=80, color_system="standard").print(
        Text(HOSTILE, style="red")
    )
    written = stream.getvalue()
    assert "\x1b[31m" in written  # the colour is ours
    assert "\x1b]" not in written
    assert "\x9b" not in written


def test_every_console_escapes() -> None:
    folder = Path(terminal.__file__).parent
    making = {path.name for path in folder.glob("*.py") if re.search(r"[= (]Console\(", path.read_text())}
    assert making == set()  # EscapingConsole is made by terminal.console
    writing = {path.name for path in folder.glob("*.py") if "click.echo(f" in path.read_text()}
    assert writing <= {"local_server.py"}  # which moves the cursor itself; others call terminal.say
