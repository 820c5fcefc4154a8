import math
import re
import sys
from pathlib import Path

import pytest

from scripts import progress

pytestmark = pytest.mark.process

TALK = "import time\nfor i in range(3): print(f'at {i}', flush=True); time.sleep(0.01)\nraise SystemExit(3)"


def test_output_goes_to_the_log_and_the_status_comes_back(tmp_path: Path) -> None:
    log = tmp_path / "log"
    status = progress.run_shown("talking", [sys.executable, "-c", TALK], log, lambda line: None)
    assert status == 3
    assert log.read_text() == "at 0\nat 1\nat 2\n"


def test_progress_is_shown_behind_the_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    progress.run_shown("talking", [sys.executable, "-c", TALK], tmp_path / "log", str.strip)
    shown = capsys.readouterr().out
    assert re.search(r"^set-up: talking: \d+:\d\d at 2$", shown, re.MULTILINE)
    assert shown.endswith("ended\n")


def test_a_short_command_shows_its_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", math.inf)
    progress.run_shown("nothing", [sys.executable, "-c", ""], tmp_path / "log", lambda line: None)
    assert capsys.readouterr().out == "set-up: nothing\n"
