"""Fetch the suite once per user and version, and make its environment."""

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile, copytree

from bench.llama_server_suite.substitutes import write_substitutes
from scripts.build_llama_server import built_programs, fetch_source
from scripts.setup import ROOT, llama_requirement

_PARTS = ("tools/server/tests", "models/templates")  # files that the tests read, by relative paths
_FILES = ("tools/mtmd/test-1.jpeg",)
_REQUIREMENTS = Path(__file__).parent / "requirements.txt"


@dataclass(frozen=True, slots=True)
class Suite:
    """The paths for a run."""

    tests: Path  # the folder of llama-server's tests, writable
    python: Path  # of the suite's environment
    models: Path  # the substitutes
    llama_server: Path


def prepared_suite() -> Suite:
    """Fetch, install and write the missing parts. Raises SetupError."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache, "vram-llm", "llama-server-suite")
    folder.mkdir(parents=True, exist_ok=True)
    source = _source(folder)
    return Suite(
        tests=source / "tools" / "server" / "tests",
        python=_environment(folder),
        models=write_substitutes(folder / "models", source / "models" / "templates"),
        llama_server=built_programs() / "llama-server",
    )


def _source(folder: Path) -> Path:
    """The parts of llama.cpp's source that the tests need."""
    requirement = llama_requirement((ROOT / "pyproject.toml").read_text())
    kept = folder / requirement.replace("==", "-")
    if kept.exists():
        return kept
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = fetch_source(Path(scratch), folder / "fetch.log")
        parts = Path(scratch, "parts")
        for part in _PARTS:
            copytree(source / part, parts / part)
        for file in _FILES:
            (parts / file).parent.mkdir(parents=True, exist_ok=True)
            copyfile(source / file, parts / file)
        parts.rename(kept)
    return kept


def _environment(folder: Path) -> Path:
    """The interpreter of an environment with the suite's requirements."""
    key = hashlib.sha256(_REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    environment = folder / f"venv-{key}"
    python = environment / "bin" / "python"
    complete = environment / "complete"
    if not complete.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*install, "-r", str(_REQUIREMENTS)], check=True)
        complete.touch()
    return python
