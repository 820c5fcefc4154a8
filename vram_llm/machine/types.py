"""The facts of a computer. Each has its source; an unknown one is `None`."""

from dataclasses import dataclass
from enum import StrEnum


class Source(StrEnum):
    """The source of a figure, the most trusted first."""

    MEASURED = "measured"
    DRIVER = "driver"
    CATALOG = "catalog"
    GIVEN = "given"  # by the user
    ESTIMATED = "estimated"  # from other facts by an approximate rule
    ASSUMED = "assumed"  # a cautious figure in place of an unknown one (assumed_speed.py)


class DeviceKind(StrEnum):
    """The llama.cpp backend that drives a device."""

    CUDA = "cuda"
    ROCM = "rocm"
    VULKAN = "vulkan"
    METAL = "metal"
    SYCL = "sycl"
    RPC = "rpc"


@dataclass(frozen=True, slots=True)
class Fact:
    """A number and its source."""

    value: float
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeSpeed:
    """How fast a processor works with weights of one type of ggml, with all its threads."""

    type: str  # ggml's name: "Q4_K"
    read_bytes_per_s: Fact  # in a decode step of one row: the slower of memory and arithmetic
    row_flops_per_s: Fact  # arithmetic of decode rows after the first
    prompt_flops_per_s: Fact  # of a full micro-batch of a prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast llama.cpp computes on one device, or on the host with `threads` threads.

    A decode step of n rows over L layers takes about
    step_overhead_s + L * layer_overhead_s + bytes / read_bytes_per_s + (n - 1) * flops / row_flops_per_s
    + crossing / Link.bytes_per_s;
    bytes are the weights and the KV cache that the step reads, flops 2 * active parameters, crossing the
    bytes of the activations from and to the host: n * n_embd * 4, for logits n * n_vocab * 4. Twice the
    link's latency is part of step_overhead_s; the transfer of these bytes is not.
    """

    read_bytes_per_s: Fact  # weights and KV cache, as a decode step streams them
    layer_overhead_s: Fact  # for each repeating layer and step, whatever its bytes: launches, barriers
    step_overhead_s: (
        Fact  # for each step: the graph's submission, and the link's latency to the device and back
    )
    row_flops_per_s: Fact | None  # arithmetic of decode rows after the first; None: unknown
    prompt_flops_per_s: Fact | None  # of a full micro-batch of a prompt; None: unknown
    split_s: Fact | None = None  # for each part of a step's graph that starts here after another device's
    expert_read_share: Fact | None = None  # of a type's read rate, for routed experts; None: all of it
    attention_flops_per_s: Fact | None = None  # over an f16 cache; None: the cache is read, no more
    types: tuple[TypeSpeed, ...] = ()  # of weights; a type that is missing has the figures above
    threads: int | None = None  # of a processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The link between the host and a device. Activations cross it between layers on different devices."""

    latency_s: Fact
    bytes_per_s: Fact
    send_bytes_per_s: Fact | None = None  # of much data, from the host to the device; None: as above


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One card, or one device of a remote worker.

    `id` is unique in a machine; plans and messages use it: "GPU0" is the card that nvidia-smi calls
    0, "RPC0" the first device of the first worker. Cards are recognised by `uuid` or `pci_bus_id`, never by
    `id`: CUDA orders them differently, and saved plans may have other ids.
    """

    id: str
    name: str
    kind: DeviceKind
    total_bytes: int
    free_bytes: int
    memory_source: Source
    overhead: Fact | None = None  # bytes a process takes outside llama.cpp's buffers; `verify` measures them
    bandwidth_bytes_per_s: Fact | None = None
    alignment_bytes: int = 128  # of every tensor in a buffer; ggml_backend_buft_get_alignment
    row_padding: int = 0  # a quantised row is padded to a multiple of this many elements; 0: it is not
    uuid: str | None = None
    pci_bus_id: str | None = None  # "0000:01:00.0", lower case
    ggml_name: str | None = None  # llama.cpp's name for it here ("CUDA0", "Vulkan0"); None: unknown
    endpoint: str | None = None  # "host:port" of an RPC worker
    endpoint_index: int = 0  # index among the worker's devices
    compute_capability: str | None = None  # "8.6"
    driver_version: str | None = None
    what_if: bool = False  # not in this machine: planned for, never loaded
    companion_bytes: int = 0  # that companions of the planned model will hold here
    speed: Speed | None = None  # measured by `calibrate`, or from the bandwidth; None: plans assume one
    link: Link | None = None
    shares_host_memory: bool = False  # its bytes are taken from the host's memory
    set_aside_bytes: int = 0  # of free_bytes, those that the firmware keeps from the host for it alone

    def budget_bytes(self, reserve_bytes: int) -> int:
        """Bytes that a plan may use: the free bytes minus the reserve, at least 0."""
        return max(self.free_bytes - reserve_bytes, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The computer itself. `available_bytes` is free now within the cgroup limits.

    The page cache counts as available, as in the kernel's MemAvailable: it is dropped before memory runs out.
    """

    name: str
    cores: int  # that this process may run on; the threads of one physical core count as several
    total_bytes: int
    available_bytes: int
    cpu_name: str | None = None
    alignment_bytes: int = 32  # ggml's CPU buffer type
    companion_bytes: int = 0  # as a device's
    bandwidth_bytes_per_s: Fact | None = None  # of all its memory, by its kind, speed and channels
    speed: Speed | None = None  # as a device's
    physical_cores: int | None = None  # that this process may run on
    numa_nodes: int | None = None  # with memory
    instructions: tuple[str, ...] | None = None  # "avx2", "avx512", "amx", "neon", "sve"
    memory_kind: str | None = None  # "DDR5-6000 2ch"
    memory_limit_bytes: int | None = None  # of the tightest cgroup; None: no cgroup has a limit
    disk_bytes_per_s: Fact | None = None  # long reads of the disk that holds models
    what_if: bool = False  # not this computer: planned for, never loaded

    @property
    def best_threads(self) -> int:
        """Threads that compute fastest: as measured, else one for each physical core."""
        measured = None if self.speed is None else self.speed.threads
        return measured or self.physical_cores or self.cores

    @property
    def in_use_bytes(self) -> int:
        """Bytes that the system and other programs hold."""
        return self.total_bytes - self.available_bytes

    def budget_bytes(self, reserve_bytes: int) -> int:
        """As a device's."""
        return max(self.available_bytes - reserve_bytes, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The devices, in the order in which llama.cpp gets them, and the host."""

    devices: tuple[Device, ...]
    host: Host
    notes: tuple[str, ...] = ()  # sentences on facts that are unknown

    @property
    def is_what_if(self) -> bool:
        """Whether its host or some of its devices are not here."""
        return self.host.what_if or any(device.what_if for device in self.devices)
