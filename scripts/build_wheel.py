"""Build the llama-cpp-python wheel, once per user and kind of machine."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from pathlib import Path

from scripts.build_args import Build, SetupError
from scripts.progress import run_shown

_STEP = re.compile(r"\s*\[(\d+)/(\d+)\] ")  # Ninja
_PERCENT = re.compile(r"\s*\[\s*(\d+)%\] ")  # make

_CAUSES = (
    (r"No space left on device", "the disk is full: free about 2 GiB and run the set-up again"),
    (
        r"Killed signal terminated|cannot allocate memory|out of memory",
        "the compiler ran out of memory: try CMAKE_BUILD_PARALLEL_LEVEL=1",
    ),
    (
        r"CMAKE_CX*_COMPILER could be found|is not able to compile a simple test program",
        "no working C++ compiler: install one (Debian and Ubuntu: apt-get install g++)",
    ),
    (
        r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|Temporary failure in name"
        r"|Failed to establish a new connection|Network is unreachable|ProxyError|SSLError",
        "the package index cannot be reached: check the network or the proxy and run the set-up again",
    ),
    (
        r"No matching distribution found for (\S+)",
        "pip finds no {0} for this Python: check the network and the index that pip is set to use",
    ),
)


def cached_wheel(key: str) -> Path | None:
    """The wheel that an earlier build stored under `key`, or None."""
    return next(iter(sorted(_folder(key).glob("*.whl"))), None)


def build_wheel(build: Build, key: str, python: Path, requirement: str, nvcc: str | None) -> Path:
    """Build `requirement` with `python`'s pip and store the wheel under `key`. Raises SetupError."""
    folder = _folder(key)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [str(python), "-m", "pip", "wheel", "-v", "--no-cache-dir", "--no-deps"]
        command += ["--no-binary", "llama-cpp-python", "--wheel-dir", scratch, requirement]
        status = run_shown("building llama.cpp", command, log, where, _environment(build, nvcc))
        wheels = sorted(Path(scratch).glob("*.whl"))
        if status != 0 or not wheels:
            cause = explain(log.read_text(errors="replace"))
            raise SetupError(f"llama.cpp could not be built: {cause} (log: {log})")
        return wheels[0].replace(folder / wheels[0].name)


def explain(log: str) -> str:
    """Why pip or a compiler failed and what to try, in one sentence, from its output."""
    for pattern, sentence in _CAUSES:
        if match := re.search(pattern, log, re.IGNORECASE):
            return sentence.format(*match.groups())
    errors = [line.strip() for line in log.splitlines() if re.search(r"\berror\b", line, re.IGNORECASE)]
    return errors[0][:300] if errors else "it ended without saying why"


def where(line: str) -> str | None:
    """The progress of the build in `line` of its output (Ninja's or make's), or None."""
    if match := _STEP.match(line):
        return f"step {match[1]} of {match[2]}"
    if match := _PERCENT.match(line):
        return f"{match[1]} %"
    if "Downloading" in line:
        return "fetching the source"
    return "configuring" if "Configuring CMake" in line else None


def _folder(key: str) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "vram-llm", "wheels", key)


def _environment(build: Build, nvcc: str | None) -> dict[str, str]:
    environment = dict(os.environ)
    environment["CMAKE_ARGS"] = shlex.join(build.cmake_args)
    environment["CMAKE_BUILD_PARALLEL_LEVEL"] = str(build.jobs)
    if build.backend == "cuda" and nvcc is not None:
        environment.setdefault("CUDACXX", nvcc)
    return environment
