"""Parts and faults of this computer, and what to do: a report to paste into an issue."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vram_llm.errors import VramLLMError
from vram_llm.machine import health_warnings, json_store, llama_build, nvml, process_limits, software
from vram_llm.machine.build_command import REMEDY
from vram_llm.machine.device_readings import DeviceReader
from vram_llm.machine.device_state import DeviceState, LinkState, state_of
from vram_llm.machine.device_warnings import device_warnings
from vram_llm.machine.health_warnings import HealthWarning, HostMemory
from vram_llm.machine.host import ROOT, swap_bytes
from vram_llm.machine.llama_build import LlamaBuild
from vram_llm.machine.private_text import private_names
from vram_llm.machine.process_limits import ProcessLimits
from vram_llm.machine.software import OperatingSystem
from vram_llm.workflows import detection

if TYPE_CHECKING:
    from vram_llm.machine.types import Device, Host, Machine

_SETTINGS = (
    "CUDA_",
    "GGML_",
    "GPU_",
    "HIP_",
    "HSA_",
    "LLAMA_",
    "NVIDIA_",
    "OMP_",
    "ROCR_",
    "VK_",
    "VRAM_LLM_",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosedHost:
    """The processor and the memory."""

    cpu_name: str | None
    cores: int
    physical_cores: int | None
    numa_nodes: int | None
    instructions: tuple[str, ...] | None
    memory_kind: str | None
    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_used_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosedDevice:
    """A device that plans use."""

    id: str
    name: str
    kind: str
    total_bytes: int
    free_bytes: int
    compute_capability: str | None
    pci_bus_id: str | None
    pcie: LinkState | None  # now and at most; None: the driver does not tell
    ecc_errors: int | None
    display_attached: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """`doctor --json`. Names of users and computers, paths below a home and keys are left out."""

    system: OperatingSystem
    packages: dict[str, str | None]  # None: not installed
    llama_cpp: LlamaBuild
    nvidia_driver: str | None
    cuda: str | None  # the newest that the driver runs
    host: DiagnosedHost
    limits: ProcessLimits
    devices: tuple[DiagnosedDevice, ...]
    settings: tuple[str, ...]  # names of variables that change what llama.cpp and its drivers do
    warnings: tuple[HealthWarning, ...]
    notes: tuple[str, ...]

    @property
    def stops_serving(self) -> bool:
        """Whether a fault keeps models from being served here."""
        return any(warning.stops_serving for warning in self.warnings)


def diagnose(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Diagnosis:
    """Look at this computer, whose kernel's files are below `root`. Starts llama.cpp in child processes."""
    build, build_fault = _llama_build()
    versions = nvml.driver_versions()
    machine = detection.detect()
    cards = {reading.pci_bus_id: _nameless(state_of(reading)) for reading in DeviceReader().read()}
    host, limits = _host(machine.host), process_limits.process_limits(root)
    system = software.operating_system(root)
    packages = software.package_versions()
    memory = HostMemory(
        total_bytes=host.total_bytes,
        available_bytes=host.available_bytes,
        swap_used_bytes=host.swap_used_bytes,
    )
    warnings = (
        *health_warnings.package_warnings(packages),
        *build_fault,
        *llama_build.build_warnings(build, host.instructions),
        *health_warnings.driver_warnings(
            software.n_nvidia_cards(root), versions.driver, versions.failure, system
        ),
        *health_warnings.note_warnings(machine.notes),
        *(warning for card in cards.values() for warning in device_warnings(card)),
        *health_warnings.host_warnings(memory),
        *health_warnings.limit_warnings(limits),
        *health_warnings.folder_warnings(is_writable=_is_writable(json_store.folder())),
    )
    found = Diagnosis(
        system=system,
        packages=packages,
        llama_cpp=build,
        nvidia_driver=versions.driver,
        cuda=versions.cuda,
        host=host,
        limits=limits,
        devices=tuple(_device(device, cards.get(device.pci_bus_id)) for device in machine.devices),
        settings=tuple(sorted(name for name in environ if name.startswith(_SETTINGS))),
        warnings=warnings,
        notes=_notes(machine, versions.failure),
    )
    without_names = private_names(environ).without_any(msgspec.to_builtins(found))
    return msgspec.convert(without_names, Diagnosis)


def _llama_build() -> tuple[LlamaBuild, tuple[HealthWarning, ...]]:
    """The build of llama.cpp, and a warning if it does not load."""
    from vram_llm.llama.registry import list_build

    try:
        listing = list_build()
    except VramLLMError as error:
        fault = HealthWarning(
            kind="no_llama_cpp",
            text=f"llama.cpp cannot be used: {error}.",
            stops_serving=True,
        )
        return LlamaBuild(loads=False), (fault,)
    build = LlamaBuild(
        loads=True,
        back_ends=listing.built,
        features=llama_build.parse_features(listing.features),
        libraries=listing.libraries,
        uses_nccl=any(name.startswith("libnccl") for name in listing.libraries),
    )
    return build, ()


def _host(host: "Host") -> DiagnosedHost:
    swap_total_bytes, swap_used_bytes = swap_bytes()
    return DiagnosedHost(
        cpu_name=host.cpu_name,
        cores=host.cores,
        physical_cores=host.physical_cores,
        numa_nodes=host.numa_nodes,
        instructions=host.instructions,
        memory_kind=host.memory_kind,
        total_bytes=host.total_bytes,
        available_bytes=host.available_bytes,
        swap_total_bytes=swap_total_bytes,
        swap_used_bytes=swap_used_bytes,
    )


def _nameless(card: DeviceState) -> DeviceState:
    """A card without the names of its programs, which may be private; a warning gives their numbers."""
    processes = None if card.processes is None else tuple(replace(each, name=None) for each in card.processes)
    return replace(card, processes=processes)


def _device(device: "Device", card: DeviceState | None) -> DiagnosedDevice:
    return DiagnosedDevice(
        id=device.id,
        name=device.name,
        kind=device.kind,
        total_bytes=device.total_bytes,
        free_bytes=device.free_bytes,
        compute_capability=device.compute_capability,
        pci_bus_id=device.pci_bus_id,
        pcie=None if card is None else card.pcie,
        ecc_errors=None if card is None else card.ecc_errors,
        display_attached=None if card is None else card.display_attached,
    )


def _is_writable(folder: Path) -> bool:
    """Whether the folder can be written, or made."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK | os.X_OK)


def _notes(machine: "Machine", driver_failure: str | None) -> tuple[str, ...]:
    """The notes of detection without those that a warning says."""
    known = (driver_failure, nvml.NO_DRIVER)
    return tuple(note for note in machine.notes if note not in known and REMEDY not in note)
