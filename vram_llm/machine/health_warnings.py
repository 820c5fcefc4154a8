"""Faults of a computer that serves models, and what to do. Pure functions.

Each warning is one sentence that names the fault, by how much, and the remedy.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from vram_llm.machine.build_command import REMEDY
from vram_llm.machine.process_limits import ProcessLimits
from vram_llm.machine.software import OperatingSystem
from vram_llm.units import GIB, MIB, format_bytes

_LEAST_MEMORY_BYTES = 512 * MIB  # the server, the engine and the built-in model
_FEW_FILES = 1024
_LITTLE_SHARE = 0.1  # of the host's memory; below it the kernel swaps
_SWAPPED_BYTES = 64 * MIB  # that little is swapped out on any computer that runs for long


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthWarning:
    """One fault. `kind` names it for programs: "swapping"."""

    kind: str
    text: str
    device: str | None = None  # "GPU0"; None: of the host or of the software
    stops_serving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """The host's memory, within the tightest cgroup limit; None: unknown."""

    total_bytes: int
    available_bytes: int
    swap_used_bytes: int | None = None


def host_warnings(host: HostMemory, swapped_before_bytes: int | None = None) -> tuple[HealthWarning, ...]:
    """Warnings on the host's memory. `swapped_before_bytes` is the swap in use at an earlier reading."""
    found = []
    if host.available_bytes < _LEAST_MEMORY_BYTES:
        found.append(
            HealthWarning(
                kind="no_memory",
                text=f"Only {format_bytes(host.available_bytes)} of the host's memory are available, too few "
                "for any model: end other programs, or raise the container's memory limit.",
                stops_serving=True,
            )
        )
    swapped_bytes = host.swap_used_bytes or 0
    grows = swapped_before_bytes is not None and swapped_bytes > swapped_before_bytes + MIB
    is_short = host.available_bytes < _LITTLE_SHARE * host.total_bytes
    if grows or (is_short and swapped_bytes >= _SWAPPED_BYTES):
        found.append(
            HealthWarning(
                kind="swapping",
                text=f"The host is swapping ({format_bytes(swapped_bytes)} are swapped out, "
                f"{format_bytes(host.available_bytes)} available), which slows down every layer on the CPU: "
                "end other programs, or plan with more kept free (`--reserve-mib`).",
            )
        )
    return tuple(found)


def limit_warnings(limits: ProcessLimits) -> tuple[HealthWarning, ...]:
    """Warnings on `ulimit`."""
    found = []
    if limits.address_space_bytes is not None:
        found.append(
            HealthWarning(
                kind="address_space_limit",
                text=f"`ulimit -v` limits a process to {format_bytes(limits.address_space_bytes)} of "
                "addresses, and a model file is mapped whole: run `ulimit -v unlimited` before "
                "`vram-llm serve`.",
                stops_serving=limits.address_space_bytes < 4 * GIB,
            )
        )
    if limits.open_files is not None and limits.open_files < _FEW_FILES:
        found.append(
            HealthWarning(
                kind="few_open_files",
                text=f"`ulimit -Hn` allows {limits.open_files} open files, and each connection takes one: "
                f"raise it to {_FEW_FILES} or more (LimitNOFILE= of a systemd unit).",
            )
        )
    return tuple(found)


def driver_warnings(
    n_cards: int, driver: str | None, driver_failure: str | None, system: OperatingSystem
) -> tuple[HealthWarning, ...]:
    """Warnings on NVIDIA's driver. `n_cards` are on the PCI bus; `driver_failure` is its own sentence."""
    if driver_failure is not None:
        return (
            HealthWarning(
                kind="driver_fails",
                text=f"{driver_failure.rstrip('.')}: restart the computer, which an update of the driver "
                "needs, or install the driver again.",
            ),
        )
    if not n_cards or driver is not None:
        return ()
    cards = "an NVIDIA card" if n_cards == 1 else f"{n_cards} NVIDIA cards"
    remedy = (
        "install NVIDIA's container toolkit on the host and start the container with `--gpus all`"
        if system.is_container
        else "install NVIDIA's driver, and run `nvidia-smi` to see that it answers"
    )
    return (
        HealthWarning(kind="no_driver", text=f"This computer has {cards}, but no driver answers: {remedy}."),
    )


def note_warnings(notes: Iterable[str]) -> tuple[HealthWarning, ...]:
    """A warning for each note of detection on a device that the build of llama.cpp cannot use."""
    return tuple(HealthWarning(kind="no_back_end", text=note) for note in notes if REMEDY in note)


def package_warnings(packages: dict[str, str | None]) -> tuple[HealthWarning, ...]:
    """A warning if packages are missing."""
    missing = [name for name, version in packages.items() if version is None]
    if not missing:
        return ()
    text = f"Python packages are missing: {', '.join(missing)}; `pip install --force-reinstall vram-llm`."
    return (HealthWarning(kind="missing_packages", text=text, stops_serving=True),)


def folder_warnings(*, is_writable: bool) -> tuple[HealthWarning, ...]:
    """A warning if the folder of this program's own data cannot be written."""
    if is_writable:
        return ()
    text = (
        "The data folder cannot be written, so measured speeds and API keys are not kept: set "
        "$VRAM_LLM_DATA_DIR to a folder that can."
    )
    return (HealthWarning(kind="data_folder", text=text),)
