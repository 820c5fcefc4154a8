"""The processor: physical cores, NUMA nodes and vector instructions, from the kernel's files below `root`."""

import platform
import re
from collections.abc import Collection
from pathlib import Path

from vram_llm.machine.system_files import read_text

_NODES = "sys/devices/system/node"
# By instructions: the flag of /proc/cpuinfo that all kernels of ggml's CPU back end for them need.
_FLAGS = {
    "avx": "avx",
    "avx2": "avx2",
    "avx512": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "amx": "amx_int8",
    "neon": "asimd",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "sve": "sve",
}


def physical_cores(root: Path, cpus: Collection[int], limit: int) -> int | None:
    """The physical cores of the logical processors `cpus`, at most `limit`; None if the kernel lists none."""
    cores = {_core(root, cpu) for cpu in cpus}
    if None not in cores:
        return min(len(cores), limit)
    if platform.system() == "Linux":
        return None
    import psutil

    count = psutil.cpu_count(logical=False)
    return None if count is None else min(count, limit)


def numa_nodes(root: Path) -> int | None:
    """The number of NUMA nodes with memory; None if the kernel lists none."""
    text = read_text(root / _NODES / "has_memory")
    spans = re.findall(r"(\d+)(?:-(\d+))?", text)
    return sum(int(last or first) - int(first) + 1 for first, last in spans) or None


def instructions(root: Path) -> tuple[str, ...] | None:
    """The processor's vector instructions for which ggml has kernels; None if unknown."""
    for line in read_text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            return tuple(name for name, flag in _FLAGS.items() if flag in flags)
    return None


def _core(root: Path, cpu: int) -> str | None:
    """The kernel's list of the logical processors on the core of `cpu`, which identifies the core."""
    folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    return read_text(folder / "core_cpus_list") or read_text(folder / "thread_siblings_list") or None
