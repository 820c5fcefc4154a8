"""Read the facts of this computer that the build of llama.cpp depends on. Standard library only."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from scripts.build_args import Facts

_CUDA_HOMES = ("/usr/local/cuda/bin", "/opt/cuda/bin")
_ROCM_HOMES = ("/opt/rocm/bin",)
_INCLUDES = ("/usr/include", "/usr/local/include")


def read_facts(root: Path = Path("/")) -> Facts:
    """The facts of this computer. `root` stands for / in tests."""
    capabilities = _nvidia_capabilities()
    sdk = os.environ.get("VULKAN_SDK")
    includes = [root / path.lstrip("/") for path in _INCLUDES] + ([Path(sdk, "include")] if sdk else [])
    return Facts(
        system=platform.system(),
        arch=platform.machine(),
        cores=usable_cores(root),
        available_bytes=available_bytes(root),
        cpu_flags=cpu_flags(root),
        nvcc=_find("nvcc", _CUDA_HOMES),
        nvidia_driver=bool(capabilities) or _has_entries(root / "proc/driver/nvidia/gpus"),
        nvidia_capabilities=capabilities,
        hipcc=_find("hipcc", _ROCM_HOMES),
        kfd=(root / "dev/kfd").exists(),
        glslc=_find("glslc", ()),
        vulkan_headers=all(
            any((path / header).exists() for path in includes)
            for header in ("vulkan/vulkan.h", "spirv/unified1/spirv.hpp")
        ),
        render_node=any((root / "dev/dri").glob("renderD*")),
    )


def cpu_flags(root: Path) -> frozenset[str]:
    """The first processor's flags in /proc/cpuinfo, which lists only usable ones."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def usable_cores(root: Path) -> int:
    """Cores this process may run on, a cgroup's quota included."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def available_bytes(root: Path) -> int | None:
    """MemAvailable, within the cgroup's limit; `None` if both are unknown."""
    limits = [
        int(line.split()[1]) * 1024
        for line in _text(root / "proc/meminfo").splitlines()
        if line.startswith("MemAvailable:")
    ]
    limit, used = (_text(root / f"sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        limits.append(int(limit) - int(used))
    return min(limits, default=None)


def compiler_versions() -> tuple[str, ...]:
    """The first line of `--version` of the C and C++ compilers (CC, CXX or the usual names)."""
    commands = [os.environ.get("CC") or "cc", os.environ.get("CXX") or "c++"]
    return tuple(line for command in commands if (line := _output([*command.split(), "--version"])))


def _nvidia_capabilities() -> tuple[str, ...]:
    lines = _output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], lines=None)
    return tuple(sorted({line.strip() for line in lines.splitlines() if line.strip()}))


def _find(name: str, folders: tuple[str, ...]) -> str | None:
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))


def _has_entries(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _output(command: list[str], lines: int | None = 1) -> str:
    """The first `lines` of standard output; empty if the command fails or is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "\n".join(done.stdout.splitlines()[:lines]) if done.returncode == 0 else ""
