"""The server's log: one line a record, no control characters, few lines of a kind."""

import io
import json
import logging
import re
import shutil
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from tests.cli.running import run
from tests.patience import looks
from tests.server.live import serving
from vram_llm.cli import terminal
from vram_llm.cli.escaping_console import EscapingConsole
from vram_llm.cli.server_log import LogFile
from vram_llm.engine.engine_log import EngineLog
from vram_llm.text.log_lines import EscapingFormatter, JsonFormatter
from vram_llm.text.repeat_filter import MOST_OF_A_KIND, WINDOW_S, RepeatFilter

OVERFLOW = "n_ctx_seq ({}) > n_ctx_train ({}) -- possible training context overflow"
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
    writing = {path.name for path in folder.glob("*.py") if 'click.echo(f"' in path.read_text()}
    assert writing <= {"local_server.py"}  # which moves the cursor itself; others call terminal.say


def _record(message: str, **more: object) -> logging.LogRecord:
    record = logging.LogRecord("vram_llm.requests", logging.INFO, "", 1, message, None, None)
    record.__dict__.update(more)
    return record


def test_figures_in_text() -> None:
    figures = {"request_id": "r-1", "model": HOSTILE, "prompts": ['say "hi"\n'], "ttft_s": 0.25}
    assert EscapingFormatter().format(_record("POST /", fields=figures)) == (
        'POST / request_id=r-1 model="a\\u001b]0;owned\\u0007\\r\\nWARNING b?c?2J" '
        'prompts=["say \\"hi\\"\\n"] ttft_s=0.25'
    )


def test_lines_of_json() -> None:
    line = JsonFormatter().format(_record(HOSTILE, fields={"model": HOSTILE}, named={"status": 200}))
    assert line.isascii()
    assert "\n" not in line
    read = json.loads(line)
    assert (read["message"], read["model"], read["status"]) == (HOSTILE, HOSTILE, 200)
    assert read["level"] == "info"
    assert datetime.fromisoformat(read["time"]).tzinfo is not None


def test_a_log_file_that_is_rotated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "server.log"
    file = LogFile(path)
    file.handle(_record("one"))
    path.rename(folder / "server.log.1")
    file.handle(_record("two"))
    assert path.read_text() == "two\n"
    shutil.rmtree(folder)
    for _ in range(2):
        file.handle(_record("three"))
    file.close()
    assert capsys.readouterr().err.count("cannot be written") == 1


@pytest.mark.process
def test_a_log_file_that_cannot_be_written(tmp_path: Path) -> None:
    done = run("serve", "demo", "--log-file", str(tmp_path / "nowhere" / "a.log"))
    assert done.returncode == 64
    assert "a.log cannot be written: No such file or directory" in done.stderr


def test_llama_cpps_warnings_that_matter() -> None:
    lines = EngineLog()
    said = [
        "DEBUG vram_llm.llama: load_tensors: layer 3 assigned to device CPU",
        "WARNING vram_llm.llama: load: control-looking token:  32007 '<|end|>' was not control-type",
        f"WARNING vram_llm.llama: llama_context: {OVERFLOW.format(9, 8)}",
        f"WARNING vram_llm.llama: llama_context: {OVERFLOW.format(7, 6)}",
        "ERROR vram_llm.llama: decode: failed to compute graph",
        "Traceback (most recent call last):",
    ]
    shown = [text for level, text in map(lines.sort, said) if level >= logging.WARNING]
    assert shown == [f"llama.cpp: {OVERFLOW.format(9, 8)}", "llama.cpp: failed to compute graph"]


@pytest.mark.process
def test_a_server_that_writes_json_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    with serving("demo", "--log-format", "json", "--log-file", path) as served:
        served.await_health()
        served.chat("hi", extra_headers={"x-request-id": "mine"})
        for _ in looks():
            if path.read_text().endswith("\n"):
                break
        path.rename(tmp_path / "server.log.1")
        served.process.send_signal(signal.SIGHUP)
        served.chat("again")
        assert served.end() == 0
    texts = [(tmp_path / "server.log.1").read_text(), path.read_text(), served.said()]
    (first,), (second,), both = (_requests(text) for text in texts)
    assert (first["request_id"], first["model"], first["client"]) == ("mine", "demo", "127.0.0.1")
    assert second["request_id"].startswith("req_")
    assert both == [first, second]


def _requests(text: str) -> list[dict[str, Any]]:
    """The lines of requests."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["logger"] == "vram_llm.requests"]
