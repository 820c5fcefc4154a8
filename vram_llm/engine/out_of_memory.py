"""Whether an engine ended because memory ran out, and where, by its last words and the kernel's counts."""

import re
from pathlib import Path

from vram_llm.machine.host import ROOT
from vram_llm.machine.system_files import read_text
from vram_llm.planner.types import HOST, Plan

_RAN_OUT = re.compile(
    r"out of memory|ran out of|unable to allocate|failed to allocate|insufficient memory|cannot allocate"
    r"|bad_alloc|OutOf(?:Device|Host|Pool)Memory",
    re.IGNORECASE,
)
_ON_HOST = re.compile(r"\bCPU(?:_\w+)?\b|on the host|bad_alloc|aligned_malloc|cannot allocate", re.IGNORECASE)
_KILLED = "signal 9"


def oom_kills(root: Path = ROOT) -> int:
    """Processes that the kernel has killed for lack of memory since it started; 0 if it does not tell."""
    lines = (line.split() for line in read_text(root / "proc/vmstat").splitlines())
    return next((int(words[1]) for words in lines if words[:1] == ["oom_kill"]), 0)


def ran_out(failure: str, plan: Plan, new_kills: int) -> tuple[bool, str | None]:
    """Whether memory ran out, and the id of the device, or HOST; None if the place is unknown.

    `new_kills`: how many processes the kernel has killed for lack of memory since the engine started.
    """
    if _KILLED in failure and new_kills > 0:
        return True, HOST
    if not _RAN_OUT.search(failure):
        return False, None
    for device in plan.devices:
        names = (device.ggml_name, device.endpoint)
        if device.id in plan.used and any(name and name in failure for name in names):
            return True, device.id
    if _ON_HOST.search(failure) or not plan.used:
        return True, HOST
    return True, plan.used[0] if len(plan.used) == 1 else None
