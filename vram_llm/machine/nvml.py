"""NVIDIA cards as their driver describes them. Only this module imports pynvml."""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

from vram_llm.machine.datasheet_speed import pcie_link
from vram_llm.machine.types import CardPair, Device, DeviceKind, Fact, Host, Link, Source

ALIGNMENT_BYTES = 128  # ggml-cuda.cu, ggml_backend_cuda_buffer_type_get_alignment
ROW_PADDING = 512  # ggml-cuda/common.cuh, MATRIX_ROW_PADDING
_P2P_READ, _P2P_NVLINK, _P2P_OK = 0, 2, 0  # nvml.h; some versions of pynvml have a tuple for the first
NO_DRIVER = "There is no NVIDIA driver on this machine."


class DetectedDevices(NamedTuple):
    """The devices found, and notes on devices that cannot be used."""

    devices: tuple[Device, ...]
    notes: tuple[str, ...]


def read_cards(host: Host) -> DetectedDevices:
    """Every usable NVIDIA card, with the numbers of nvidia-smi; without a driver, no card and a note.

    A card without memory of its own (GB10, Jetson) has the memory of `host`.
    """
    try:
        import pynvml as nvml
    except ImportError:
        note = "NVIDIA cards were not looked for: the Python package nvidia-ml-py is missing."
        return DetectedDevices((), (note,))
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return DetectedDevices((), (_init_failure_note(nvml, error),))
    try:
        return _read_cards(nvml, host)
    except nvml.NVMLError as error:
        return DetectedDevices((), (f"The NVIDIA driver does not list its cards: {error}.",))
    finally:
        query(nvml, nvml.nvmlShutdown)


def open_nvml() -> Any | None:
    """The initialised module pynvml, for readings; None without it or without a driver. It stays open.

    Opening the driver again for each reading would wake a card that no program uses.
    """
    try:
        import pynvml as nvml
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


class NvmlUsage(NamedTuple):
    """Memory in use on NVIDIA cards, by the UUID of the card."""

    used_bytes: dict[str, int]  # by all programs together
    process_bytes: dict[str, int]  # by one process; in a container NVML may not know it
    driver_version: str | None = None  # of the driver that reports them


class DriverVersions(NamedTuple):
    """The versions of NVIDIA's driver; None without one. `failure` is a sentence on a driver that fails."""

    driver: str | None = None  # "580.65.06"
    cuda: str | None = None  # the newest CUDA that it runs: "13.0"
    failure: str | None = None


def driver_versions() -> DriverVersions:
    """The versions of NVIDIA's driver."""
    try:
        import pynvml as nvml
    except ImportError:
        return DriverVersions()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        note = _init_failure_note(nvml, error)
        return DriverVersions(failure=None if note == NO_DRIVER else note)
    try:
        cuda = query(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)  # 13000
        return DriverVersions(
            query(nvml, nvml.nvmlSystemGetDriverVersion),
            f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
        )
    finally:
        query(nvml, nvml.nvmlShutdown)


def card_pairs() -> tuple[CardPair, ...]:
    """The ways between NVIDIA cards, for each two of them whose way the driver describes."""
    try:
        import pynvml as nvml
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        indices = range(query(nvml, nvml.nvmlDeviceGetCount) or 0)
        handles = [query(nvml, nvml.nvmlDeviceGetHandleByIndex, index) for index in indices]
        found = (_card_pair(nvml, *two) for two in combinations(handles, 2) if None not in two)
        return tuple(pair for pair in found if pair is not None)
    finally:
        query(nvml, nvml.nvmlShutdown)


def _card_pair(nvml: Any, one: Any, other: Any) -> CardPair | None:
    """The way between two cards: peer access in both directions, and NVLink."""
    uuids = [query(nvml, nvml.nvmlDeviceGetUUID, each) for each in (one, other)]
    ways = [query(nvml, nvml.nvmlDeviceGetP2PStatus, *two, _P2P_READ) for two in ((one, other), (other, one))]
    if None in ways or None in uuids:
        return None
    has_access = all(way == _P2P_OK for way in ways)
    is_linked = query(nvml, nvml.nvmlDeviceGetP2PStatus, one, other, _P2P_NVLINK) == _P2P_OK
    known = frozenset(str(uuid) for uuid in uuids)
    return CardPair(uuids=known, has_peer_access=has_access, has_nvlink=is_linked)


def shared_memory_note(name: str) -> str:
    """The note on a device that uses the host's memory."""
    return f"{name} uses the computer's memory: plans take its bytes and the host's from one pool."


def memory_usage(pid: int | None = None) -> NvmlUsage:
    """The memory in use on each NVIDIA card, by all programs and by process `pid`; empty without a driver."""
    try:
        import pynvml as nvml
    except ImportError:
        return NvmlUsage({}, {})
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return NvmlUsage({}, {})
    try:
        usage = NvmlUsage({}, {}, query(nvml, nvml.nvmlSystemGetDriverVersion))
        for index in range(query(nvml, nvml.nvmlDeviceGetCount) or 0):
            _add_usage(nvml, index, pid, usage)
        return usage
    finally:
        query(nvml, nvml.nvmlShutdown)


def normalise_bus_id(text: str) -> str:
    """NVML's bus id "00000000:01:00.0" in the form that llama.cpp gives CUDA devices: "0000:01:00.0".

    ggml_backend_cuda_reg (ggml-cuda.cu) makes the result of cudaDeviceGetPCIBusId lower case. Its domain has
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


def visible_cards(detected: DetectedDevices, environ: Mapping[str, str]) -> DetectedDevices:
    """`detected` without the cards that CUDA_VISIBLE_DEVICES hides, and a note if it hides any.

    The value has the meaning of the CUDA Programming Guide: indices or beginnings of UUIDs, up to the first
    that names no card. Indices count in CUDA's order, which is NVML's order only with
    CUDA_DEVICE_ORDER=PCI_BUS_ID, or if all cards have the same name. Otherwise an index hides no card, and a
    note says so.
    """
    devices, notes = detected
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None or not devices:
        return detected
    are_alike = len({device.name for device in devices}) == 1
    has_cuda_order = are_alike or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    visible_ids: set[str] = set()
    for entry in value.split(","):
        entry = entry.strip()
        if entry.isdecimal() and not has_cuda_order:
            note = (
                f"CUDA_VISIBLE_DEVICES={value} counts cards in CUDA's order, which the driver does not "
                "report: all are shown. Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name them by UUID."
            )
            return DetectedDevices(devices, (*notes, note))
        matches = [device.id for device in devices if _matches(device, entry)]
        if len(matches) != 1:
            break
        visible_ids.add(matches[0])
    n_hidden = len(devices) - len(visible_ids)
    if not n_hidden:
        return detected
    note = f"CUDA_VISIBLE_DEVICES hides {n_hidden} of {len(devices)} NVIDIA cards."
    visible = tuple(device for device in devices if device.id in visible_ids)
    return DetectedDevices(visible, (*notes, note))


def _matches(device: Device, entry: str) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES is the index of the card or begins its UUID."""
    if entry.isdecimal():
        return device.id == f"GPU{int(entry)}"
    return entry.startswith("GPU-") and device.uuid is not None and device.uuid.startswith(entry)


def _init_failure_note(nvml: Any, error: Exception) -> str:
    absent = (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED)
    if getattr(error, "value", None) in absent:
        return NO_DRIVER
    return f"The NVIDIA driver does not answer: {error}."


def _read_cards(nvml: Any, host: Host) -> DetectedDevices:
    driver = query(nvml, nvml.nvmlSystemGetDriverVersion)
    devices: list[Device] = []
    notes: list[str] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            read = _read_card(nvml, index, driver, host)
        except nvml.NVMLError as error:
            notes.append(f"NVIDIA card {index} is left out: {error}.")
            continue
        notes.extend(read.notes)
        devices.extend(read.devices)
    return DetectedDevices(tuple(devices), tuple(notes))


def _read_card(nvml: Any, index: int, driver: str | None, host: Host) -> DetectedDevices:
    """The card at `index`. Raises NVMLError if its memory is unknown."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = query(nvml, nvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"
    mig = query(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if mig and mig[0]:
        note = f"{name} (NVIDIA card {index}) is left out: it is split into MIG instances."
        return DetectedDevices((), (note,))
    is_shared = False
    try:
        memory = card_memory(nvml, handle)
        total, free = int(memory.total), int(memory.free)
    except nvml.NVMLError_NotSupported:
        total, free, is_shared = host.total_bytes, host.available_bytes, True
    pci = query(nvml, nvml.nvmlDeviceGetPciInfo, handle)
    capability = query(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
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
        uuid=query(nvml, nvml.nvmlDeviceGetUUID, handle),
        pci_bus_id=normalise_bus_id(decoded(pci.busId)) if pci else None,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        driver_version=driver,
        link=None if is_shared else _link(nvml, handle),
        shares_host_memory=is_shared,
    )
    return DetectedDevices((device,), ())


def _add_usage(nvml: Any, index: int, pid: int | None, usage: NvmlUsage) -> None:
    """Add the memory in use on the card at `index` to `usage`, as far as the driver reports it."""
    handle = query(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
    uuid = None if handle is None else query(nvml, nvml.nvmlDeviceGetUUID, handle)
    if uuid is None:
        return
    memory = query(nvml, lambda: card_memory(nvml, handle))
    if memory is not None:
        usage.used_bytes[uuid] = int(memory.used)
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except (nvml.NVMLError, nvml.NVMLLibraryMismatchError):
        return
    of_process = [process.usedGpuMemory for process in processes if process.pid == pid]
    if of_process and None not in of_process:  # None: unknown, as with Windows' driver model (WDDM)
        usage.process_bytes[uuid] = sum(of_process)


def card_memory(nvml: Any, handle: Any) -> Any:
    """The memory by version 2 of NVML's call, which leaves out the driver's reserve; else by version 1."""
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except (nvml.NVMLError_FunctionNotFound, nvml.NVMLError_InvalidArgument, nvml.NVMLError_NotSupported):
        return nvml.nvmlDeviceGetMemoryInfo(handle)


def _bandwidth(nvml: Any, handle: Any) -> Fact | None:
    clock_mhz = query(nvml, nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_MEM)
    bus_bits = query(nvml, nvml.nvmlDeviceGetMemoryBusWidth, handle)
    if not clock_mhz or not bus_bits:
        return None
    return Fact(bandwidth_bytes_per_s(clock_mhz, bus_bits), Source.DRIVER)


def _link(nvml: Any, handle: Any) -> Link | None:
    """The link of the card's slot at full speed; an idle card uses fewer lanes or a lower generation."""
    generation = query(nvml, nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle)
    lanes = query(nvml, nvml.nvmlDeviceGetMaxPcieLinkWidth, handle)
    return pcie_link(generation, lanes, Source.DRIVER)


def query(nvml: Any, function: Callable[..., Any], *args: Any) -> Any | None:
    """The result of a function of pynvml; None if it fails."""
    try:
        return function(*args)
    except nvml.NVMLError:
        return None


def decoded(value: str | bytes) -> str:
    """A text of NVML, which older versions of pynvml give as bytes."""
    return value.decode() if isinstance(value, bytes) else value
