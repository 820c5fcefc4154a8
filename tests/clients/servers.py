"""The servers that the clients talk to, as processes of their own on free ports."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from tests.clients.environments import ROOT, ClientsError

_START_LIMIT_S = 120.0
_ADDRESS = re.compile(r"(http://[^/\s]+)/v1")


class Model(StrEnum):
    """Which model answers a client."""

    DEMO = "demo"  # the built-in one
    SCRIPTED = "scripted"  # see script.py

    @property
    def command(self) -> list[str]:
        if self is Model.SCRIPTED:
            return [sys.executable, "-m", "tests.clients.scripted_server"]
        return [sys.executable, "-m", "vram_llm", "serve", "demo", "--reasoning", "off", "--port", "0"]


@contextlib.contextmanager
def running(model: Model) -> Iterator[str]:
    """The address of a server of `model`, without /v1. Raises ClientsError if it does not start."""
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(
            model.command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log
        )
        try:
            yield _address(model, process, Path(log.name))
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(model: Model, process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if found := _ADDRESS.search(log.read_text()):
            return found[1]
        time.sleep(0.1)  # between two looks, up to the deadline
    raise ClientsError(f"the server of the {model} model does not start: {log.read_text()[-500:].strip()}")
