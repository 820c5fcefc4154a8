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
    """The llama.cpp back end that drives a device."""

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
    """The speed of all threads of a processor with weights of one ggml type."""

    type: str  # ggml's name: "Q4_K"
    read_bytes_per_s: Fact  # in a decode step of one row; memory or arithmetic limits it
    row_flops_per_s: Fact  # of further rows of a decode step
    prompt_flops_per_s: Fact  # of a full micro-batch of a prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The speed of llama.cpp on one device, or on the host with `threads` threads.

    A decode step of n rows over L layers takes about
    step_overhead_s + L * layer_overhead_s + read / read_bytes_per_s + (n - 1) * flops / row_flops_per_s
    + transferred / Link.bytes_per_s.
    `read` are the bytes of the weights and of the KV cache that the step reads. `flops` are 2 * active
    parameters. `transferred` are the bytes of activations to and from the host: n * n_embd * 4, for logits
    n * n_vocab * 4. Twice the link's latency is part of step_overhead_s.
    """

    read_bytes_per_s: Fact  # weights and KV cache in a decode step
    layer_overhead_s: Fact  # for each repeating layer and step: kernel launches, barriers
    step_overhead_s: Fact  # for each step: submission of the graph, and twice the link's latency
    row_flops_per_s: Fact | None  # of further rows of a decode step; None: unknown
    prompt_flops_per_s: Fact | None  # of a full micro-batch of a prompt; None: unknown
    split_s: Fact | None = None  # for each split of a step's graph that follows another device's
    expert_read_share: Fact | None = None  # of the type's read rate, for routed experts; None: 1
    attention_flops_per_s: Fact | None = None  # with an f16 cache; None: only reading the cache takes time
    types: tuple[TypeSpeed, ...] = ()  # by weight type; other types have the figures above
    threads: int | None = None  # None: not a processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The link between the host and a device. Activations cross it between layers on different devices."""

    latency_s: Fact
    bytes_per_s: Fact
    send_bytes_per_s: Fact | None = None  # of large transfers from the host; None: bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A card, or one device of an RPC worker.

    `id` is unique in a machine, and plans and messages use it: "GPU0" is card 0 of nvidia-smi, "RPC0" the
    first device of the first worker. Cards are recognised by `uuid` or `pci_bus_id`, never by `id`: CUDA
    numbers them differently, and saved plans may have other ids.
    """

    id: str
    name: str
    kind: DeviceKind
    total_bytes: int
    free_bytes: int
    memory_source: Source
    overhead: Fact | None = None  # bytes of a process outside llama.cpp's buffers; `verify` measures them
    bandwidth_bytes_per_s: Fact | None = None  # of its memory
    alignment_bytes: int = 128  # of every tensor in a buffer; ggml_backend_buft_get_alignment
    row_padding: int = 0  # quantised rows are padded to a multiple of this many elements; 0: no padding
    uuid: str | None = None
    pci_bus_id: str | None = None  # "0000:01:00.0", lower case
    ggml_name: str | None = None  # llama.cpp's name for it here ("CUDA0", "Vulkan0"); None: unknown
    endpoint: str | None = None  # "host:port" of an RPC worker
    endpoint_index: int = 0  # index among the worker's devices
    tunnel: str | None = None  # of a worker over SSH: "me@box:50052"; its endpoint is the end here, for now
    compute_capability: str | None = None  # "8.6"
    driver_version: str | None = None
    what_if: bool = False  # whether it is planned for without being in this machine
    other_kind: DeviceKind | None = None  # the back end that may drive it as well; a description says neither
    companion_bytes: int = 0  # of the planned model's companions on this device
    speed: Speed | None = None  # measured by `calibrate`, or estimated; None: plans assume one
    link: Link | None = None  # to the host; None: unknown
    shares_host_memory: bool = False  # whether its memory is part of the host's
    set_aside_bytes: int = 0  # those of free_bytes that are dedicated memory, which the host does not count

    def budget_bytes(self, reserve_bytes: int) -> int:
        """Bytes that a plan may use: the free bytes minus the reserve, at least 0."""
        return max(self.free_bytes - reserve_bytes, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The computer itself. Memory and cores are those that this process may use, within its cgroup limits.

    The page cache counts as available, as in the kernel's MemAvailable: the kernel drops it before memory
    runs out.
    """

    name: str
    cores: int  # logical processors: several for a physical core with several threads
    total_bytes: int
    available_bytes: int
    cpu_name: str | None = None
    alignment_bytes: int = 32  # of ggml's CPU buffer type
    companion_bytes: int = 0  # of the planned model's companions on the host
    bandwidth_bytes_per_s: Fact | None = None  # of all its memory, by its kind, rate and channels
    speed: Speed | None = None  # measured by `calibrate`; None: plans estimate or assume one
    physical_cores: int | None = None
    numa_nodes: int | None = None  # those with memory
    instructions: tuple[str, ...] | None = None  # "avx2", "avx512", "amx", "neon", "sve"
    memory_kind: str | None = None  # "DDR5-6000 2ch"
    memory_limit_bytes: int | None = None  # of the tightest cgroup; None: no cgroup has a limit
    lockable_bytes: int | None = None  # that a process may lock in memory; None: without a limit
    disk_bytes_per_s: Fact | None = None  # of long reads from the disk that holds models
    what_if: bool = False  # whether it is planned for without being this computer

    @property
    def best_threads(self) -> int:
        """The fastest number of threads: the measured one, else one for each physical core."""
        measured = None if self.speed is None else self.speed.threads
        return measured or self.physical_cores or self.cores

    @property
    def in_use_bytes(self) -> int:
        """Bytes that the system and other programs use."""
        return self.total_bytes - self.available_bytes

    def budget_bytes(self, reserve_bytes: int) -> int:
        """Bytes that a plan may use: the available bytes minus the reserve, at least 0."""
        return max(self.available_bytes - reserve_bytes, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSum:
    """The time of a sum that devices of a tensor split make together, as `calibrate` measured it.

    A sum of n bytes takes latency_s + n / bytes_per_s.
    """

    device_ids: frozenset[str]
    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPair:
    """The way between two NVIDIA cards, as their driver describes it."""

    uuids: frozenset[str]
    has_peer_access: bool  # whether one reads the other's memory over the bus
    has_nvlink: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SumFacts:
    """What is known of sums between the devices of a machine."""

    measured: tuple[MeasuredSum, ...] = ()
    pairs: tuple[CardPair, ...] = ()
    uses_nccl: bool | None = None  # whether llama.cpp's CUDA back end is linked with NCCL; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The devices, in the order in which llama.cpp gets them, and the host."""

    devices: tuple[Device, ...]
    host: Host
    notes: tuple[str, ...] = ()  # sentences on unknown facts and unused devices
    sums: SumFacts = SumFacts()

    @property
    def is_what_if(self) -> bool:
        """Whether its host is not this computer, or some of its devices are not in it."""
        return self.host.what_if or any(device.what_if for device in self.devices)
