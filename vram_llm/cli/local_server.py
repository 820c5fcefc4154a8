"""A server for one command: `vram-llm serve` as a child process, on a free port, ended with the command."""

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
def serving(arguments: Sequence[str], api_key: str | None) -> Iterator[str]:
    """Run `vram-llm serve ARGUMENTS`, and yield its address once it is ready.

    If the server ends before that, this command shows its messages and ends with its exit code. The server
    has its own session: Ctrl+C stops an answer, not the server.
    """
    signal.signal(signal.SIGTERM, _leave)  # the default action would leave the server running
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
        "--config",
        "none",  # the user's server has other clients: its address, keys and model are not this one's
    ]
    with tempfile.TemporaryFile("w+") as messages:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, start_new_session=True
        )
        try:
            with (
                _StateLine() as line,
                httpx.Client(
                    base_url=f"http://127.0.0.1:{port}",
                    headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
                    timeout=5.0,
                    trust_env=False,
                ) as client,
            ):
                while (state := _state(client)) is not None:
                    if (status := child.poll()) is not None:
                        line.clear()
                        messages.seek(0)
                        click.echo(messages.read(), err=True, nl=False)
                        raise click.exceptions.Exit(status)
                    line.show(state)
                    time.sleep(_LOOK_EVERY_S)  # between two looks at the server
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


def _state(client: httpx.Client) -> str | None:
    """The server's state in its own words, such as "Loading model, 40%"; None if it is ready."""
    try:
        reply = client.get("/health")
        return None if reply.status_code == httpx.codes.OK else str(reply.json()["error"]["message"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return "Starting"


class _StateLine:
    """Shows the state in one line of standard error; without a terminal, only the first state."""

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
        """The characters that erase the old state."""
        return f"\r{' ' * (len(self._shown) + 4)}\r" if self._shown and sys.stderr.isatty() else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
