"""The command line as a person runs it: real processes, real exit codes; or the same within this process."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

from tests.patience import PATIENCE_S
from vram_llm.cli.configured_command import CONFIG_DIR_VARIABLE
from vram_llm.cli.main import main
from vram_llm.llama.dryrun import client
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.machine.types import Machine
from vram_llm.model.header_cache import CACHE_DIR_VARIABLE
from vram_llm.planner.types import Plan, Workload
from vram_llm.workflows import planning

ROOT = Path(__file__).parents[2]
_OWN_FOLDERS = (DATA_DIR_VARIABLE, CACHE_DIR_VARIABLE, CONFIG_DIR_VARIABLE)  # set by tests/conftest.py


def run(
    *args: str | Path,
    cwd: Path | None = None,
    columns: int = 80,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run `vram-llm` with `args` to its end; `env` is the whole environment, in place of `environment()`."""
    return run_program(*command(*args), cwd=cwd, env=env or environment(columns), stdin=stdin)


def run_here(
    *args: str | Path,
    cwd: Path | None = None,
    columns: int = 80,
    env: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
) -> "subprocess.CompletedProcess[str]":
    """`run` within this process, for tests of what a command prints, plans and exits with.

    It starts neither Python nor llama.cpp for each command: all share one dry run. An error without a
    sentence is raised here.
    """
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    words, code = ["vram-llm", *map(str, args)], None
    with ExitStack() as stack:
        stack.enter_context(chdir(cwd or Path.cwd()))
        stack.enter_context(patch.dict(os.environ, env or environment(columns), clear=True))
        stack.enter_context(patch.object(sys, "argv", words))
        stack.enter_context(patch.object(sys, "stdout", streams[0]))
        stack.enter_context(patch.object(sys, "stderr", streams[1]))
        stack.enter_context(patch.object(client, "DryRun", lambda: nullcontext(_shared_dry_run())))
        try:
            main()
        except SystemExit as end:
            code = end.code
    for stream in streams:
        stream.flush()
    printed = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    return subprocess.CompletedProcess(words, code if isinstance(code, int) else 0, *printed)


@contextmanager
def each_plan_once() -> Iterator[None]:
    """Within the block commands of `run_here` that ask for a plan again get the plan that was made.

    The host's free memory, which differs between two readings, makes no other plan of it. A plan with
    alternatives also stands for the same plan without them.
    """
    plan, plans = planning.plan, dict[object, Plan]()

    def plan_once(
        model: str, machine: Machine, workload: Workload, dry: DryRun | None = None, *, compares: bool = True
    ) -> Plan:
        path = Path(model).resolve()
        same = replace(machine, host=replace(machine.host, available_bytes=0))
        key = (path, path.stat().st_mtime_ns if path.exists() else 0, same, workload)
        if (key, True) not in plans and (key, compares) not in plans:
            plans[key, compares] = plan(model, machine, workload, dry, compares=compares)
        return plans.get((key, True)) or plans[key, compares]

    with patch.object(planning, "plan", plan_once):
        yield


@contextmanager
def without_alternatives() -> Iterator[None]:
    """Within the block the plans of `run_here` have no alternatives, which take most of the time."""
    plan = planning.plan

    def plan_alone(
        model: str, machine: Machine, workload: Workload, dry: DryRun | None = None, *, compares: bool = True
    ) -> Plan:
        return plan(model, machine, workload, dry, compares=False)

    with patch.object(planning, "plan", plan_alone):
        yield


@cache
def _shared_dry_run() -> DryRun:
    return DryRun()


def end_shared_dry_run() -> None:
    """End the dry run of `run_here`, if a test has used it."""
    if _shared_dry_run.cache_info().currsize:
        _shared_dry_run().close()
        _shared_dry_run.cache_clear()


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
    """This environment with a terminal of some width, and no key or setting by accident.

    Servers compute with one thread: several threads of llama.cpp wait for each other in loops, which takes
    ten times as long where other processes have the processors too.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VRAM_LLM_") or name in _OWN_FOLDERS
    }
    return {**kept, "COLUMNS": str(columns), "PYTHONPATH": str(ROOT), "VRAM_LLM_THREADS": "1"}
