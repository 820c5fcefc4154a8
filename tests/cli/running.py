"""The command line as a person runs it: real processes, real exit codes."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PATIENCE_S = 60.0


def run(*args: str | Path, cwd: Path | None = None, columns: int = 80) -> "subprocess.CompletedProcess[str]":
    """Run `vram-llm` with `args` to its end."""
    return subprocess.run(
        command(*args),
        cwd=cwd,
        env=environment(columns),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def command(*args: str | Path) -> list[str]:
    """The command line of `vram-llm` with `args`."""
    return [sys.executable, "-m", "vram_llm", *map(str, args)]


def environment(columns: int = 80) -> dict[str, str]:
    """This environment with a terminal of some width, no key by accident, and a data folder apart."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VRAM_LLM_")}
    return {
        **kept,
        "COLUMNS": str(columns),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "VRAM_LLM_DATA_DIR": str(Path(tempfile.gettempdir()) / "vram-llm-tests"),
    }
