"""Run a long command with its output in a log, and show its progress."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

LINE_EVERY_S = 15.0
Where = Callable[[str], str | None]  # the progress of the command in a line of its output


def run_shown(
    title: str, command: list[str], log: Path, where: Where, environment: Mapping[str, str] | None = None
) -> int:
    """Run `command` with its output in `log`. Returns its exit status.

    Progress follows `title`: in place on a terminal, otherwise on a new line every LINE_EVERY_S.
    """
    lines: queue.Queue[str | None] = queue.Queue()
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that Ctrl+C ends its children too, below
    ) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True)
        reader.start()
        try:
            with log.open("w") as out:
                _follow(title, lines, out, where)
            return process.wait()
        except BaseException:  # Ctrl+C too: the program ends with this one
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise
        finally:
            reader.join()


def _pump(source: Iterable[str], lines: queue.Queue[str | None]) -> None:
    for line in source:
        lines.put(line)
    lines.put(None)


def _follow(title: str, lines: queue.Queue[str | None], log: TextIO, where: Where) -> None:
    terminal = sys.stdout.isatty()
    begin = shown = time.monotonic()
    at = ""
    _show(title, terminal)
    while True:
        try:
            line = lines.get(timeout=1.0)
        except queue.Empty:
            line = ""
        if line is None:
            break
        log.write(line)
        at = where(line) or at
        now = time.monotonic()
        if now - shown >= (1.0 if terminal else LINE_EVERY_S):
            shown = now
            _show(f"{title}: {_clock(now - begin)} {at}", terminal)
    if shown != begin:
        _show(f"{title}: {_clock(time.monotonic() - begin)} ended", terminal)
    print(end="\n" if terminal else "", flush=True)


def _show(text: str, terminal: bool) -> None:
    line = f"set-up: {text}"
    print(f"\r{line[:78]:<78}" if terminal else line, end="" if terminal else "\n", flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
