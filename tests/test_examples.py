"""Every example runs, against the built-in model."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import environment
from tests.test_journeys import Serving, serving
from vram_llm import demo

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*command: str | Path) -> str:
    done = subprocess.run(
        list(map(str, command)), env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def served() -> Iterator[Serving]:
    with serving("demo") as running:
        running.await_health()
        yield running


def test_chat_with_the_sdk(served: Serving) -> None:
    said = run(sys.executable, EXAMPLES / "chat.py", "--base-url", f"{served.url}/v1", "What is VRAM?")
    assert "tokens in, 200 out)" in said


def test_chat_with_curl(served: Serving) -> None:
    said = json.loads(run(EXAMPLES / "chat.sh", "What is VRAM?", f"{served.url}/v1"))
    assert said["choices"][0]["message"]["content"]


def test_an_uneven_rig() -> None:
    said = run(sys.executable, EXAMPLES / "uneven_rig.py", demo.path())
    assert "RTX 3090 Ti" in said
    assert "tensor_split = [" in said
