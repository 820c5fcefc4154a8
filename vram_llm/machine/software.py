"""The operating system, the Python packages and NVIDIA's driver. Nothing here names a user or a computer."""

import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from vram_llm.machine.system_files import read_text

# Of the packages that this program needs, those on which its behaviour depends most.
PACKAGES = (
    "vram-llm", "llama-cpp-python", "gguf", "fastapi", "uvicorn", "pydantic", "httpx", "httptools", "uvloop",
    "jinja2", "llguidance", "msgspec", "numpy", "nvidia-ml-py", "psutil", "click", "rich", "textual",
)  # fmt: skip
_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"  # of PCI: graphics and compute cards


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingSystem:
    """The system under this program."""

    name: str  # "Linux 6.8.0-45-generic x86_64"
    python: str  # "CPython 3.11.2"
    libc: str | None  # "glibc 2.36"; None: unknown
    is_container: bool
    is_wsl: bool


def operating_system(root: Path) -> OperatingSystem:
    """The system whose files are below `root`, and this Python."""
    release = platform.release()
    return OperatingSystem(
        name=f"{platform.system()} {release} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        libc=" ".join(platform.libc_ver()).strip() or None,
        is_container=_is_container(root),
        is_wsl="microsoft" in release.lower(),
    )


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """The versions of the installed packages by name; None: not installed."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def n_nvidia_cards(root: Path) -> int:
    """NVIDIA's cards on the PCI bus, with or without a driver, from the kernel's files below `root`."""
    vendors = root.glob("sys/bus/pci/devices/*/vendor")
    return sum(
        read_text(path) == _NVIDIA and read_text(path.with_name("class")).startswith(_DISPLAY_CLASS)
        for path in vendors
    )


def _is_container(root: Path) -> bool:
    """By the marks of Docker and Podman, and by what other runtimes write into the first process's cgroup."""
    marks = (root / ".dockerenv", root / "run/.containerenv")
    cgroup = read_text(root / "proc/1/cgroup")
    return any(mark.exists() for mark in marks) or bool(re.search("docker|kubepods|containerd|lxc", cgroup))
