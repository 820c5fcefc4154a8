"""Reports of crashed engines: JSON files for whoever looks for the cause. They hold no prompts or answers."""

import platform
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from vram_llm._version import __version__
from vram_llm.machine import json_store
from vram_llm.planner.types import Plan
from vram_llm.state_file import write_state

MAX_REPORTS = 20
_FOLDER, _NAME = "crashes", "engine-*.json"
_VERSION = 1


class CrashReport(msgspec.Struct, frozen=True, kw_only=True):
    """One death of an engine process."""

    version: int = _VERSION
    reason: str
    exit_code: int  # below 0: a signal's number
    signal: str | None
    served_s: float | None  # None: it died while it loaded
    extra_buffers: bool  # whether the processor's weights were repacked
    stderr: tuple[str, ...]  # the last lines
    vram_llm: str = __version__
    llama_cpp_python: str
    python: str
    system: str
    at: str  # ISO 8601, UTC
    plan: Plan


def make_report(plan: Plan, exit_code: int, reason: str, **facts: Any) -> CrashReport:
    """A report of now; `facts` are the other fields that this process does not know by itself."""
    return CrashReport(
        plan=plan,
        exit_code=exit_code,
        reason=reason,
        signal=signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else None,
        llama_cpp_python=json_store.llama_cpp_version(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        at=datetime.now(UTC).isoformat(timespec="microseconds"),
        **facts,
    )


def write_report(report: CrashReport) -> Path:
    """Write a report, readable by its owner only, and remove the oldest above MAX_REPORTS. Raises OSError."""
    folder = json_store.folder() / _FOLDER
    path = folder / f"engine-{report.at.translate({ord(c): None for c in ':+-'})}.json"
    write_state(path, msgspec.json.format(msgspec.json.encode(report), indent=2))
    for old in sorted(folder.glob(_NAME))[:-MAX_REPORTS]:
        old.unlink(missing_ok=True)
    return path
