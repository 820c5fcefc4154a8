"""A server for one command: `vram-llm serve` as a child, on a port of its own, gone with the command."""

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import NoReturn, Self

import click
import httpx

_LOOK_EVERY_S = 0.05
_STOP_S = 15.0


@contextmanager
def serving(arguments: Sequence[str]) -> Iterator[str]:
    """The address of `vram-llm serve ARGUMENTS` once it is ready.

    Where it ends before that, its messages are shown, and this command ends with its exit code. It has a
    session of its own: Ctrl+C stops an answer, and not the server.
    """
    signal.signal(signal.SIGTERM, _leave)  # whose default would leave the server behind
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "vram_llm",
        "serve",
        *arguments,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with tempfile.TemporaryFile("w+") as messages:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, start_new_session=True
        )
        try:
            with _StateLine() as line:
                while (state := _state(port)) is not None:
                    if (status := child.poll()) is not None:
                        line.clear()
                        messages.seek(0)
                        click.echo(messages.read(), err=True, nl=False)
                        raise click.exceptions.Exit(status)
                    line.show(state)
                    time.sleep(_LOOK_EVERY_S)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            child.terminate()
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _state(port: int) -> str | None:
    """How far the server is, in its own words: "Loading model, 40%"; None where it is ready."""
    try:
        reply = httpx.get(f"http://127.0.0.1:{port}/health", timeout=5.0, trust_env=False)
        return None if reply.status_code == httpx.codes.OK else str(reply.json()["error"]["message"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return "Starting"


class _StateLine:
    """A line on standard error that changes with the state; without a terminal, the first state alone."""

    def __init__(self) -> None:
        self._shown = ""

    def show(self, state: str) -> None:
        if state == self._shown or (self._shown and not sys.stderr.isatty()):
            return
        click.echo(f"{self._begin()}{state} ...", err=True, nl=not sys.stderr.isatty())
        self._shown = state

    def clear(self) -> None:
        click.echo(self._begin(), err=True, nl=False)
        self._shown = ""

    def _begin(self) -> str:
        """What takes the old state away."""
        return f"\r{' ' * (len(self._shown) + 4)}\r" if self._shown and sys.stderr.isatty() else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
