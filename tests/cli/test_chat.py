"""A chat at the terminal: piped, and in a terminal of its own with its keys."""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.running import command, environment, run
from tests.patience import PATIENCE_S
from tests.server.live import Serving, serving
from tools.random_model import write_llama

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A model that talks without end at temperature 0."""
    model = write_llama(tmp_path_factory.mktemp("chat") / "tiny.gguf", n_vocab=320, seed=2)
    with serving(model, "--n-ctx", "32k") as running:
        running.await_health()
        yield running


def chat(*args: str, lines: str) -> "subprocess.CompletedProcess[str]":
    return run("chat", *args, stdin=lines)


def test_piped_lines_are_answered_by_the_built_in_model() -> None:
    done = chat("--temperature", "0", "--max-tokens", "60", lines="What is GGUF?\n\n/stats\n")
    assert done.returncode == 0, done.stderr
    assert re.search(r"last: \d+ tokens in, \d+ out, first after .* tokens per second", done.stdout)
    assert "chatting with the built-in one, demo" in done.stderr


def test_a_chat_with_a_running_server(served: Serving) -> None:
    lines = "/stats\nhello\nand\n/stats\n/system Be brief.\n/system\n/clear\n/help\n/nonsense\n"
    done = chat("--url", f"{served.url}/v1", "--max-tokens", "5", lines=lines)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no answer yet\n")
    assert "all: 2 answers, 10 tokens" in done.stdout
    assert done.stdout.count("system: Be brief.\n") == 2
    assert "forgotten" in done.stdout
    assert "Ctrl+C stops an answer" in done.stdout
    assert "there is no /nonsense" in done.stderr


def test_the_history_is_sent(served: Serving) -> None:
    done = chat("--url", f"{served.url}/v1", "--max-tokens", "5", lines="hello\n/stats\nhello\n/stats\n")
    first, second = (int(count) for count in re.findall(r"last: (\d+) tokens in", done.stdout))
    assert second > 2 * first


def test_a_refusal_is_shown_and_the_chat_continues(served: Serving) -> None:
    too_long = "word " * 40_000
    done = chat("--url", f"{served.url}/v1", "--max-tokens", "5", lines=f"{too_long}\nhello\n/stats\n")
    assert done.returncode == 0
    assert "context" in done.stderr
    assert "all: 1 answers, 5 tokens" in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        (["--url", "http://127.0.0.1:1/v1"], 34, "no server answers at http://127.0.0.1:1/v1"),
        (["demo", "--url", "http://127.0.0.1:1/v1"], 64, "not both"),
        (["--no-such-flag"], 64, "there is no option --no-such-flag"),
        (["demo", "--no-such-flag"], 64, "there is no option --no-such-flag"),
        (["127.0.0.1:1"], 34, "no server answers at http://127.0.0.1:1/v1"),
        (["127.0.0.1:1", "Hello?", "--n-ctx", "4k"], 64, "--n-ctx is for a model to load"),
        (["demo", "--max-tokens", "few"], 64, "'few' is not a whole number"),
        (["nowhere.gguf"], 10, "there is no file nowhere.gguf"),
        (["demo", "--n-ctx", "many"], 64, "is not a count"),
    ],
)
def test_faults(tmp_path: Path, args: list[str], code: int, sentence: str) -> None:
    done = run("chat", *args, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert sentence in done.stderr
    assert "Usage:" not in done.stderr


PROMPT_BEGINS, PROMPT_ENDS = "\x1b[?2004h", "\x1b[?2004l"  # pastes are marked in between


class Terminal:
    """A program in a small terminal, and its keyboard."""

    def __init__(self, *args: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command(*args), stdin=theirs, stdout=theirs, stderr=theirs, env=_terminal_environment(),
            start_new_session=True, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def await_text(self, wanted: str) -> None:
        """Read until `wanted` has appeared since the last time."""
        deadline = time.monotonic() + PATIENCE_S
        while wanted not in self.shown:
            ready, _, _ = select.select([self._ours], [], [], max(deadline - time.monotonic(), 0))
            assert ready, self.shown
            self.shown += os.read(self._ours, 4096).decode(errors="replace")
        self.shown = self.shown.partition(wanted)[2]

    def end(self) -> int:
        code = self.process.wait(PATIENCE_S)
        os.close(self._ours)
        return code


def _terminal_environment() -> dict[str, str]:
    """A terminal that gets no question about its cursor, which nothing here would answer."""
    return {**environment(columns=30), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}


def _take_terminal() -> None:
    """Make the terminal at standard input the session's own, so that Ctrl+C becomes a signal.

    Programs that a shell has started in the background ignore that signal, and so do theirs.
    """
    import fcntl
    import signal
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_ctrl_c_stops_an_answer_and_ctrl_d_leaves(served: Serving) -> None:
    terminal = Terminal("chat", "--url", f"{served.url}/v1", "--temperature", "0")
    terminal.await_text(PROMPT_BEGINS)
    terminal.type("hello\r")
    terminal.await_text(PROMPT_ENDS)
    terminal.await_text(" ")
    terminal.type("\x03")
    terminal.await_text("(stopped)")
    terminal.await_text(PROMPT_BEGINS)
    terminal.type("/stats\r")
    terminal.await_text("stopped after")
    terminal.await_text(PROMPT_BEGINS)
    terminal.type("\x03")
    terminal.await_text("Ctrl+D leaves")
    terminal.await_text(PROMPT_BEGINS)
    terminal.type("\x04")
    assert terminal.end() == 0


def test_a_chat_that_is_ended_takes_its_server_along() -> None:
    with subprocess.Popen(
        command("chat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"/help\n")
        process.stdin.flush()
        process.stdout.readline()  # the server is ready by then
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.terminate()
        process.wait(PATIENCE_S)
        assert not any(child.is_running() for child in children)
