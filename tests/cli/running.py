"""The command line as a person runs it: real processes, real exit codes."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.patience import PATIENCE_S
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.model.header_cache import CACHE_DIR_VARIABLE

ROOT = Path(__file__).parents[2]
_OWN_FOLDERS = (DATA_DIR_VARIABLE, CACHE_DIR_VARIABLE)  # set by tests/conftest.py


def run(
    *args: str | Path,
    cwd: Path | None = None,
    columns: int = 80,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run `vram-llm` with `args` to its end; `env` is the whole environment, in place of `environment()`."""
    return run_program(*command(*args), cwd=cwd, env=env or environment(columns), stdin=stdin)


def run_program(
    *words: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a command line of any program to its end; without `stdin` it reads what this process reads."""
    return subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env=env or environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def command(*args: str | Path) -> list[str]:
    """The command line of `vram-llm` with `args`."""
    return [sys.executable, "-m", "vram_llm", *map(str, args)]


def environment(columns: int = 80) -> dict[str, str]:
    """This environment with a terminal of some width, and no key or setting by accident."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VRAM_LLM_") or name in _OWN_FOLDERS
    }
    return {**kept, "COLUMNS": str(columns), "PYTHONPATH": str(ROOT)}
