"""NVIDIA cards as their driver describes them. The only importer of pynvml."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vram_llm.machine.datasheet_speed import pcie_link
from vram_llm.machine.types import Device, DeviceKind, Fact, Host, Link, Source

ALIGNMENT_BYTES = 128  # ggml-cuda.cu, ggml_backend_cuda_buffer_type_get_alignment
ROW_PADDING = 512  # ggml-cuda/common.cuh, MATRIX_ROW_PADDING
NO_DRIVER = "There is no NVIDIA driver on this machine."


class Cards(NamedTuple):
    """The cards found, and notes on cards that could not be read."""

    devices: tuple[Device, ...]
    notes: tuple[str, ...]


def cards(host: Host) -> Cards:
    """Every usable NVIDIA card, numbered as by nvidia-smi; no card and a note if there is no driver.

    A card without its own memory (GB10, Jetson) gets the memory of `host`.
    """
    try:
        import pynvml as nvml
    except ImportError:
        return Cards((), ("NVIDIA cards were not looked for: the Python package nvidia-ml-py is missing.",))
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Cards((), (_no_driver(nvml, error),))
    try:
        return _read_all(nvml, host)
    except nvml.NVMLError as error:
        return Cards((), (f"The NVIDIA driver does not list its cards: {error}.",))
    finally:
        _ask(nvml, nvml.nvmlShutdown)


class NvmlUsage(NamedTuple):
    """Bytes in use by the UUID of the card, as the driver of version `driver_version` reports them."""

    cards: dict[str, int]  # used by all programs
    process: dict[str, int]  # used by one process; in a container NVML may not know it
    driver_version: str | None = None


def shared_memory_note(name: str) -> str:
    """The note on a device that uses the host's memory."""
    return f"{name} uses the computer's memory: plans take its bytes and the host's from one pool."


def usage(pid: int | None = None) -> NvmlUsage:
    """Memory in use on every NVIDIA card, by all programs and by process `pid`; empty without a driver."""
    try:
        import pynvml as nvml
    except ImportError:
        return NvmlUsage({}, {})
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return NvmlUsage({}, {})
    try:
        used = NvmlUsage({}, {}, _ask(nvml, nvml.nvmlSystemGetDriverVersion))
        for index in range(_ask(nvml, nvml.nvmlDeviceGetCount) or 0):
            _add_usage(nvml, index, pid, used)
        return used
    finally:
        _ask(nvml, nvml.nvmlShutdown)


def normalise_bus_id(text: str) -> str:
    """NVML's "00000000:01:00.0" in the form of llama.cpp's CUDA devices: "0000:01:00.0".

    ggml-cuda.cu (ggml_backend_cuda_reg) lower-cases the result of cudaDeviceGetPCIBusId. Its domain has
    four digits, or more if it needs them.
    """
    domain, _, rest = text.strip().lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def bandwidth_bytes_per_s(memory_clock_mhz: int, bus_width_bits: int) -> float:
    """Bytes per second of a card's memory: clock x 2 transfers x bus width / 8.

    The factor 2 is that of CUDA's own memoryClockRate formula (deviceQuery, theoretical bandwidth). It
    holds for GDDR5X, 6, 6X and 7 as well as for HBM, since the driver reports half the data rate for all.
    """
    return memory_clock_mhz * 1e6 * 2 * bus_width_bits / 8


def visible(found: Cards, environ: Mapping[str, str]) -> Cards:
    """`found` without the cards that CUDA_VISIBLE_DEVICES hides, and a note if it hides any.

    The value is read as in the CUDA Programming Guide: indices or beginnings of UUIDs, up to the first that
    names no card. Indices count in CUDA's order. That is NVML's order only with
    CUDA_DEVICE_ORDER=PCI_BUS_ID, or if all cards are alike; otherwise no card is hidden, and a note says so.
    """
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None or not found.devices:
        return found
    alike = len({device.name for device in found.devices}) == 1
    same_order = alike or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    kept: set[str] = set()
    for entry in listed.split(","):
        entry = entry.strip()
        if entry.isdecimal() and not same_order:
            note = (
                f"CUDA_VISIBLE_DEVICES={listed} counts cards in CUDA's order, which the driver does not "
                "report: all are shown. Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name them by UUID."
            )
            return Cards(found.devices, (*found.notes, note))
        matches = [d.id for d in found.devices if _is_named(d, entry)]
        if len(matches) != 1:
            break
        kept.add(matches[0])
    hidden = len(found.devices) - len(kept)
    if not hidden:
        return found
    note = f"CUDA_VISIBLE_DEVICES hides {hidden} of {len(found.devices)} NVIDIA cards."
    return Cards(tuple(d for d in found.devices if d.id in kept), (*found.notes, note))


def _is_named(device: Device, entry: str) -> bool:
    if entry.isdecimal():
        return device.id == f"GPU{int(entry)}"
    return entry.startswith("GPU-") and device.uuid is not None and device.uuid.startswith(entry)


def _no_driver(nvml: Any, error: Exception) -> str:
    absent = (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED)
    if getattr(error, "value", None) in absent:
        return NO_DRIVER
    return f"The NVIDIA driver does not answer: {error}."


def _read_all(nvml: Any, host: Host) -> Cards:
    driver = _ask(nvml, nvml.nvmlSystemGetDriverVersion)
    devices: list[Device] = []
    notes: list[str] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            read = _read(nvml, index, driver, host)
        except nvml.NVMLError as error:
            notes.append(f"NVIDIA card {index} is left out: {error}.")
            continue
        notes.extend(read.notes)
        devices.extend(read.devices)
    return Cards(tuple(devices), tuple(notes))


def _read(nvml: Any, index: int, driver: str | None, host: Host) -> Cards:
    """The card at `index`. Raises NVMLError if its memory is unknown."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = _ask(nvml, nvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"
    mig = _ask(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if mig and mig[0]:
        note = f"{name} (NVIDIA card {index}) is left out: it is split into MIG instances."
        return Cards((), (note,))
    is_shared = False
    try:
        memory = _memory(nvml, handle)
        total, free = int(memory.total), int(memory.free)
    except nvml.NVMLError_NotSupported:
        total, free, is_shared = host.total_bytes, host.available_bytes, True
    pci = _ask(nvml, nvml.nvmlDeviceGetPciInfo, handle)
    capability = _ask(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    device = Device(
        id=f"GPU{index}",
        name=name,
        kind=DeviceKind.CUDA,
        total_bytes=total,
        free_bytes=free,
        memory_source=Source.DRIVER,
        bandwidth_bytes_per_s=_bandwidth(nvml, handle),
        alignment_bytes=ALIGNMENT_BYTES,
        row_padding=ROW_PADDING,
        uuid=_ask(nvml, nvml.nvmlDeviceGetUUID, handle),
        pci_bus_id=normalise_bus_id(_text(pci.busId)) if pci else None,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        driver_version=driver,
        link=None if is_shared else _link(nvml, handle),
        shares_host_memory=is_shared,
    )
    return Cards((device,), ())


def _add_usage(nvml: Any, index: int, pid: int | None, used: NvmlUsage) -> None:
    handle = _ask(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
    uuid = None if handle is None else _ask(nvml, nvml.nvmlDeviceGetUUID, handle)
    if uuid is None:
        return
    memory = _ask(nvml, lambda: _memory(nvml, handle))
    if memory is not None:
        used.cards[uuid] = int(memory.used)
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except (nvml.NVMLError, nvml.NVMLLibraryMismatchError):
        return
    ours = [process.usedGpuMemory for process in processes if process.pid == pid]
    if ours and None not in ours:  # unknown under Windows' driver model (WDDM)
        used.process[uuid] = sum(ours)


def _memory(nvml: Any, handle: Any) -> Any:
    """Memory by version 2 of the call, whose usage excludes the driver's reserve; old drivers have only 1."""
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except (nvml.NVMLError_FunctionNotFound, nvml.NVMLError_InvalidArgument, nvml.NVMLError_NotSupported):
        return nvml.nvmlDeviceGetMemoryInfo(handle)


def _bandwidth(nvml: Any, handle: Any) -> Fact | None:
    clock_mhz = _ask(nvml, nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_MEM)
    bus_bits = _ask(nvml, nvml.nvmlDeviceGetMemoryBusWidth, handle)
    if not clock_mhz or not bus_bits:
        return None
    return Fact(bandwidth_bytes_per_s(clock_mhz, bus_bits), Source.DRIVER)


def _link(nvml: Any, handle: Any) -> Link | None:
    """The link in the card's slot at full speed; the current one is slower while the card is idle."""
    generation = _ask(nvml, nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle)
    lanes = _ask(nvml, nvml.nvmlDeviceGetMaxPcieLinkWidth, handle)
    return pcie_link(generation, lanes, Source.DRIVER)


def _ask(nvml: Any, query: Callable[..., Any], *args: Any) -> Any | None:
    try:
        return query(*args)
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
