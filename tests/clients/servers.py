"""The servers that the clients talk to, as processes of their own on free ports."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from tests.clients.environments import ROOT, ClientsError
from tests.server.live import await_health
from tests.workers import free_ports


class Model(StrEnum):
    """Which model answers a client."""

    DEMO = "demo"  # the built-in one
    SCRIPTED = "scripted"  # see script.py

    @property
    def command(self) -> list[str]:
        if self is Model.SCRIPTED:
            return [sys.executable, "-m", "tests.clients.scripted_server"]
        return [sys.executable, "-m", "vram_llm", "serve", "demo", "--reasoning", "off"]


@contextlib.contextmanager
def running(model: Model) -> Iterator[str]:
    """The address of a server of `model`, without /v1. Raises ClientsError if it does not start."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(
            [*model.command, "--port", str(port)], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        try:
            try:
                await_health(url, process)
            except AssertionError as error:
                said = Path(log.name).read_text()[-500:].strip()
                raise ClientsError(f"the server of the {model} model does not start: {said}") from error
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
