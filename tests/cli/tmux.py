"""A program in a terminal of tmux: typed at, pasted into, resized, and read as a person sees it."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S, looks

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Tmux:
    """One window of a tmux server of its own, whose socket is in `folder`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._socket = folder / "tmux"
        self._environment = {**environment, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}

    def start(self, command: list[str], columns: int = 80, lines: int = 40) -> None:
        """Run `command` in the window, which stays and shows its exit code when it has ended.

        A shell does so: tmux itself sometimes misses the end of its child.
        """
        ending = f'trap : INT; {shlex.join(command)}; code=$?; echo; echo "ended with $code"; exec sleep 3600'
        keep = ("set-option", "-g", "remain-on-exit", "on", ";")
        size = ("-x", str(columns), "-y", str(lines))
        new = ("new-session", "-d", *size, ending)
        self._tmux("-f", os.devnull, "start-server", ";", *keep, *new)

    def type(self, text: str) -> None:
        """Type `text` as it is."""
        self._tmux("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names: Enter, Up, C-c, M-Enter."""
        self._tmux("send-keys", *keys)

    def enter(self, text: str) -> None:
        """Type a line."""
        self.type(text)
        self.press("Enter")

    def paste(self, text: str) -> None:
        """Paste `text`, marked as a paste if the program asks for marks."""
        self._tmux("load-buffer", "-", stdin=text)
        self._tmux("paste-buffer", "-p", "-d")

    def resize(self, columns: int, lines: int) -> None:
        """Make the window another size."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def screen(self) -> str:
        """All that was written, with lines that the terminal wrapped in one."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-")

    def await_screen(self, pattern: str, count: int = 1) -> str:
        """Wait until the regular expression is found `count` times. Returns the screen."""
        screen = ""
        for _ in looks():
            screen = self.screen()
            if len(re.findall(pattern, screen, re.MULTILINE)) >= count:
                return screen
        raise AssertionError(f"no {pattern!r} after {PATIENCE_S:.0f} s on this screen:\n{screen}")

    def await_end(self) -> int:
        """Wait until the program has ended. Returns its exit code."""
        screen = self.await_screen(r"^ended with \d+$")
        return int(re.findall(r"^ended with (\d+)$", screen, re.MULTILINE)[-1])

    def close(self) -> None:
        """End the tmux server, and with it the program."""
        subprocess.run(
            self._command("kill-server"),
            env=self._environment,
            capture_output=True,
            check=False,
            timeout=PATIENCE_S,
        )

    def _tmux(self, *args: str, stdin: str = "") -> str:
        done = subprocess.run(
            self._command(*args),
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, f"tmux {args}: {done.stderr}"
        return done.stdout

    def _command(self, *args: str) -> list[str]:
        return ["tmux", "-S", str(self._socket), *args]


@contextmanager
def running(
    command: list[str], environment: Mapping[str, str], columns: int = 80, lines: int = 40
) -> Iterator[Tmux]:
    """`command` in a window of tmux; both end with the block."""
    with tempfile.TemporaryDirectory(prefix="tmux-") as folder:  # a short path, as sockets need
        tmux = Tmux(Path(folder), environment)
        tmux.start(command, columns, lines)
        try:
            yield tmux
        finally:
            tmux.close()
