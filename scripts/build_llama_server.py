"""Build llama.cpp's own programs (llama-server, llama-bench, ggml-rpc-server) from the bindings' source.

    python -m scripts.build_llama_server

The source is inside llama-cpp-python's source distribution, and the arguments for ggml are the set-up's, so
that the programs use memory exactly as the library does. They are built once per user and kind of machine,
without web UI and TLS. Standard library only; needs cmake.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from scripts.build_args import Build, Facts, SetupError, plan_build, wheel_key
from scripts.build_facts import compiler_versions, read_facts
from scripts.build_wheel import explain, where
from scripts.progress import run_shown
from scripts.setup import ROOT, llama_requirement, target

PROGRAMS = ("llama-server", "llama-bench", "ggml-rpc-server")
CMAKE_ARGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",  # one file per program
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


def main() -> int:
    """Build missing programs and print their folder. Returns the exit code."""
    try:
        print(built_programs())
    except SetupError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbuild: stopped; run it again to continue", file=sys.stderr)
        return 130
    return 0


def built_programs() -> Path:
    """Build PROGRAMS if they are missing; returns their folder. Raises SetupError."""
    facts = read_facts()
    build = plan_build(facts, os.environ)
    folder = programs_folder(facts, build)
    if is_complete(folder):
        return folder
    compilers = compiler_versions()
    if len(compilers) < 2:
        raise SetupError("no C and C++ compiler found: install them (Debian and Ubuntu: apt-get install g++)")
    cmake = shutil.which("cmake")
    if cmake is None:
        raise SetupError("cmake is not here: install it (`pip install cmake` does)")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = fetch_source(Path(scratch), folder / "fetch.log")
        output = Path(scratch) / "build"
        _run("configuring llama.cpp", configure_command(cmake, source, output, build), folder, facts)
        command = [cmake, "--build", str(output), "--target", *PROGRAMS, "--parallel", str(build.jobs)]
        _run("building llama.cpp's programs", command, folder, facts)
        for name in PROGRAMS:
            (output / "bin" / name).replace(folder / name)
    return folder


def programs_folder(facts: Facts, build: Build) -> Path:
    """The folder for the programs of this machine and these arguments."""
    requirement = llama_requirement((ROOT / "pyproject.toml").read_text())
    key = wheel_key(build, requirement, " ".join(CMAKE_ARGS), compiler_versions(), target(facts))
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "vram-llm", "programs", key)


def is_complete(folder: Path) -> bool:
    """Whether `folder` has every program."""
    return all((folder / name).exists() for name in PROGRAMS)


def fetch_source(folder: Path, log: Path) -> Path:
    """Download and unpack llama.cpp's source into `folder`; returns its path. Raises SetupError."""
    archive = fetch_archive(folder, log)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"


def fetch_archive(folder: Path, log: Path) -> Path:
    """Download llama-cpp-python's source distribution into `folder`; returns its path. Raises SetupError."""
    requirement = llama_requirement((ROOT / "pyproject.toml").read_text())
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    command += ["--no-cache-dir", "--no-binary", "llama-cpp-python", "--dest", str(folder), requirement]
    status = run_shown("fetching the source", command, log, where)
    archive = next(iter(folder.glob("llama_cpp_python-*.tar.gz")), None)
    if status != 0 or archive is None:
        cause = explain(log.read_text(errors="replace"))
        raise SetupError(f"the source could not be fetched: {cause} (log: {log})")
    return archive


def configure_command(cmake: str, source: Path, output: Path, build: Build) -> list[str]:
    """CMake's command line, with Ninja if it is installed."""
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    return [cmake, "-S", str(source), "-B", str(output), *generator, *CMAKE_ARGS, *build.cmake_args]


def _run(what: str, command: list[str], folder: Path, facts: Facts) -> None:
    log = folder / "build.log"
    environment = dict(os.environ)
    if facts.nvcc is not None:
        environment.setdefault("CUDACXX", facts.nvcc)
    if run_shown(what, command, log, where, environment) != 0:
        raise SetupError(f"{what} failed: {explain(log.read_text(errors='replace'))} (log: {log})")


if __name__ == "__main__":
    sys.exit(main())
