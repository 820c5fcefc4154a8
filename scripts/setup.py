"""Make .venv in the checkout: locked packages, llama.cpp built for this machine, the project itself.

Standard library only. `scripts/setup` finds a Python that is new enough and runs `python -m scripts.setup`.
A second run without changes only compares a stamp.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.build_args import Build, Facts, SetupError, plan_build, wheel_key
from scripts.build_facts import compiler_versions, read_facts
from scripts.build_wheel import build_wheel, cached_wheel, explain
from scripts.progress import run_shown

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".vram-llm-setup"
LOG = VENV / "setup.log"
LOCK = ROOT / "requirements-dev.lock"
INPUTS = (LOCK, ROOT / "pyproject.toml")


def main() -> int:
    """Run the set-up. Returns the exit code."""
    try:
        set_up()
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: stopped; run it again to continue", file=sys.stderr)
        return 130
    return 0


def set_up() -> None:
    """Bring .venv up to date. Raises SetupError."""
    facts = read_facts()
    build = plan_build(facts, os.environ)
    requirement = llama_requirement((ROOT / "pyproject.toml").read_text())
    compilers = compiler_versions()
    key = wheel_key(build, requirement, sys.implementation.cache_tag, compilers, target(facts))
    stamp = stamp_of(key)
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == stamp:
        _say(".venv is up to date")
        return
    STAMP.unlink(missing_ok=True)
    for reason in build.reasons:
        _say(reason)
    _make_venv()
    _pip("installing the locked packages", "install", "--no-deps", "--requirement", str(LOCK))
    wheel = cached_wheel(key) or _build(build, facts, key, requirement, compilers)
    _pip(f"installing llama.cpp from {wheel.parent}", "install", "--no-deps", "--force-reinstall", str(wheel))
    _pip("installing vram-llm", "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    _pip("checking that the packages agree", "check")
    STAMP.write_text(stamp)
    _say("done")


def llama_requirement(pyproject: str) -> str:
    """The pinned requirement for llama-cpp-python in a pyproject.toml. Raises SetupError."""
    match = re.search(r'"(llama-cpp-python==[0-9.]+)"', pyproject)
    if match is None:
        raise SetupError("pyproject.toml pins no llama-cpp-python==VERSION")
    return match[1]


def target(facts: Facts) -> str:
    """The meaning of "native" for the compilers on this machine."""
    cpu = "" if facts.cpu_flags else platform.processor()
    return " ".join((facts.system, facts.arch, cpu, *facts.nvidia_capabilities))


def stamp_of(key: str) -> str:
    """A hash of the set-up's inputs, wheel, Python and folder; equal if the set-up has nothing to do."""
    digest = hashlib.sha256("\0".join((key, sys.version, str(ROOT))).encode())
    for path in INPUTS:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _build(build: Build, facts: Facts, key: str, requirement: str, compilers: tuple[str, ...]) -> Path:
    if len(compilers) < 2:
        raise SetupError("no C and C++ compiler found: install them (Debian and Ubuntu: apt-get install g++)")
    cmake = shutil.which("cmake")
    _say(f"cmake: {cmake or 'none here; pip fetches one for the build'}")
    _say(f"building {requirement}: once, about eight core-minutes for a processor, far longer for CUDA")
    return build_wheel(build, key, PYTHON, requirement, facts.nvcc)


def _make_venv() -> None:
    config = VENV / "pyvenv.cfg"
    if PYTHON.exists() and f"version = {platform.python_version()}" in config.read_text():
        return
    _say(f"making {VENV} with Python {platform.python_version()}")
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SetupError(
            "Python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
        )


def _pip(what: str, *arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    if run_shown(what, command, LOG, _package) != 0:
        raise SetupError(f"{what} failed: {explain(LOG.read_text(errors='replace'))} (log: {LOG})")


def _package(line: str) -> str | None:
    match = re.match(r"Collecting (\S+)|(Installing collected packages)", line)
    return (match[1] or "unpacking") if match else None


def _say(text: str) -> None:
    print(f"set-up: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
