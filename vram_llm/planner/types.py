"""The planner's question, a Workload, and its answer, a Plan. All frozen; a Plan goes to JSON and back."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from vram_llm.machine.types import Device, Host, Source
from vram_llm.model.file_identity import FileIdentity
from vram_llm.model.metadata_override import MetadataOverride
from vram_llm.model.pooling import Pooling
from vram_llm.planner.context_price import ContextPrice
from vram_llm.planner.disk_reads import DiskReads
from vram_llm.planner.estimates import Estimate, MemoryUse
from vram_llm.planner.overrides import Override
from vram_llm.planner.processor_use import AS_USUAL, ProcessorUse
from vram_llm.planner.published_speed import PublishedSpeed
from vram_llm.planner.rope import AS_IN_FILE, Rope
from vram_llm.planner.speed_range import SpeedRange
from vram_llm.planner.step_times import DeviceTime, StepSums
from vram_llm.planner.tensor_split import SplitChoice, SplitMode, TensorSplit
from vram_llm.units import MIB

HOST = "host"  # the computer's own id among device ids
DISK = "disk"  # the id of waiting for the disk among the times of a step

PLAN_VERSION = 1
MOST_BIASED = 1024
"""Most tokens with a logit bias in a sampler chain on a device; the device keeps room for their ids."""


class FlashAttention(StrEnum):
    """Whether llama.cpp uses flash attention, which stores no matrix of scores."""

    AUTO = "auto"  # if every device has a kernel for the model's heads
    ON = "on"  # if a device has no kernel, the host computes attention
    OFF = "off"


class BackendSampling(StrEnum):
    """Whether the output's device samples tokens, for requests that allow it."""

    AUTO = "auto"  # on if every device is an NVIDIA, AMD (ROCm) or Apple GPU of this computer
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA adapter's file and scale."""

    path: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ControlVector:
    """A control vector's file and scale."""

    path: str
    scale: float = 1.0


class Objective(StrEnum):
    """The goal of a placement, among those with the fewest layers on the host."""

    LATENCY = "latency"  # the shortest decode step: the fastest card comes first, a slow one may stay idle
    THROUGHPUT = "throughput"  # prompts: the shortest slowest stage of a micro-batch
    CONTEXT = "context"  # the longest context that fits, if none is given; memory as in BALANCE
    BALANCE = "balance"  # the fullest device least full, regardless of speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How the engine loads, and shares the context among requests. llama.cpp holds the same memory."""

    itl_target_ms: float = 100.0  # longest step in which some sequences decode while others prefill
    cache_reuse: int = 32  # minimum shared prefix in tokens worth reusing; 0: no reuse
    slots_ram_bytes: int | None = None  # host memory for states evicted from the KV cache
    slots_disk_bytes: int = 0  # disk space for states evicted from host memory
    idle_tokens: int | None = None  # kept in the KV cache while requests run; None: no bound
    check_tensors: bool = False  # look for values that no weight can have, at each load


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The user's wishes for a model. `None` leaves the choice to the planner.

    `n_ctx` counts the KV cells of all `parallel` sequences together. With `kv_unified` the sequences share
    the cells, and one sequence may use all. Without, each sequence has its own cache with an equal share.
    """

    n_ctx: int | None = None  # None: the longest that costs almost nothing; 0: the trained length
    largest_ctx: bool = False  # the longest context that fits, instead of `n_ctx`
    parallel: int = 4  # as llama-server and LM Studio
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    n_batch: int | None = None  # None: llama.cpp's default, or n_ubatch if that is more
    n_ubatch: int | None = None  # None: llama.cpp's default, or more if prompts copy the host's weights
    n_outputs_max: int | None = None  # most rows of logits per step; None: one per sequence, at least 8
    flash_attn: FlashAttention = FlashAttention.AUTO
    swa_full: bool = False
    rope: Rope = AS_IN_FILE
    kv_unified: bool = True
    reserve_bytes: int = 1024 * MIB  # kept free on every device and on the host
    n_gpu_layers: int | None = None  # counted as in llama.cpp: the output is one layer
    tensor_split: TensorSplit | None = None
    split_mode: SplitChoice | None = None  # None: by layers
    overrides: tuple[Override, ...] | None = None  # None: the planner moves weights where that helps
    op_offload: bool | None = None  # copy the host's weights to the first device for prompts; None: if faster
    kv_offload: bool | None = None  # keep the KV cache on the devices of its layers, not on the host
    pooling: Pooling | None = None  # make embeddings with this pooling; None: as in the model's file
    use_mmap: bool | None = None  # map the file; None: unless layers' weights are on the host beside devices
    from_disk: bool = False  # read weights that the host's memory does not hold from the file for each token
    pipeline_copies: bool = True
    kv_overrides: tuple[MetadataOverride, ...] = ()  # of the model file's metadata; the first of a key counts
    mmproj: str | None = None  # the file of a multimodal projector
    find_mmproj: bool = True  # if `mmproj` is None, use a projector in the model's folder
    mmproj_device: str | None = None  # the id of the projector's device, or "host"
    loras: tuple["Lora", ...] = ()
    control_vectors: tuple["ControlVector", ...] = ()
    control_vector_layers: tuple[int, int] | None = None  # the first and the last that get them; None: all
    draft: str | None = None  # a smaller model that drafts tokens, or a name of mtp.py
    draft_device: str | None = None  # the id of the draft model's device, or "host"
    n_threads: int | None = None
    n_threads_batch: int | None = None
    processor: ProcessorUse = AS_USUAL
    mlock: bool = False  # lock the host's weights in memory
    repack: bool = True  # let llama.cpp repack the host's weights for its processor's kernels
    no_host: bool = False  # keep the host's weights out of memory that cards copy from fastest
    backend_sampling: BackendSampling = BackendSampling.AUTO
    serving: Serving = Serving()
    objective: Objective = Objective.LATENCY
    expect_depth: int | None = None  # context depth in tokens of an average decode step
    expect_streams: int = 1  # sequences that decode at the same time; the objective uses it
    use_tuned: bool = True  # take the plan that `tune` measured for this model and machine, if there is one

    DEFAULT_N_BATCH = 2048  # llama.cpp's defaults
    DEFAULT_N_UBATCH = 512
    DEFAULT_N_CTX = 8192  # reference for an open context; the context itself if no layer is on a card
    DEFAULT_TEXT = 2048  # the same for encoders, whose compute buffers grow with the longest text
    DEFAULT_DEPTH = 1024  # tokens; at most half the context
    DEFAULT_PROMPT = 2048  # tokens of a predicted prompt, at most half the context; else `expect_depth`
    DEFAULT_ANSWER = 512  # tokens of a typical request's answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The llama.cpp context of a plan, with every choice made."""

    n_ctx: int  # cells of all sequences; llama.cpp pads each sequence's share to a multiple of 256
    parallel: int
    kv_type_k: str
    kv_type_v: str
    n_batch: int
    n_ubatch: int
    n_threads: int
    use_mmap: bool
    pipeline_copies: bool  # if llama.cpp can make them; they cost memory and speed up prompts and streams
    n_threads_batch: int | None = None  # for steps of more than one token; None: n_threads
    processor: ProcessorUse = AS_USUAL
    mlock: bool = False  # the host's weights are locked in memory
    repack: bool = True  # llama.cpp may repack the host's weights for its processor's kernels
    no_host: bool = False  # the host's weights are not in memory that cards copy from fastest
    n_threads_given: bool = False  # the user chose n_threads; else it is the planning computer's cores
    n_outputs_max: int | None = None  # most rows of logits per micro-batch; None: one per sequence
    flash_attn: FlashAttention = FlashAttention.AUTO
    swa_full: bool = False  # layers with a sliding window keep the whole context
    rope: Rope = AS_IN_FILE
    kv_unified: bool = True  # one cache for all sequences; else each has its own
    pooling: Pooling | None = None  # pooling of embeddings; None: the model generates text
    pools_in_engine: bool = False  # llama.cpp gives a vector for each row: images are batches of their own
    backend_sampling: bool = False  # the output's device samples tokens, for requests that allow it
    op_offload: bool = False  # the first device computes prompts with weights that are on the host
    kv_offload: bool = True  # KV cache and states are on their layer's device; else on the host
    n_mtp: int = 0  # most tokens that the model's own MTP head drafts at once; 0: it is not loaded
    resident_bytes: int | None = (
        None  # of the host's weights, in memory; the rest stays in the file. None: all
    )

    @property
    def n_ctx_seq(self) -> int:
        """Most tokens of one sequence (llama_context's n_ctx_seq)."""
        return self.n_ctx // self.n_caches

    @property
    def n_caches(self) -> int:
        """Number of KV caches (llama_kv_cache's n_stream)."""
        return 1 if self.kv_unified else self.parallel

    @property
    def n_outputs(self) -> int:
        """The most rows of logits per micro-batch."""
        return self.parallel if self.n_outputs_max is None else self.n_outputs_max


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The device of each layer. Layers 0 to cpu_layers-1 stay on the host; the rest follow `device_order`.

    `layers_per_device` counts repeating layers. `tensor_split` also counts the output on its device, as
    llama.cpp expects. `overrides` move weights of single layers away from their layer's device. A device
    without layers, output and moved weights is left out.

    With the split mode TENSOR each device has a share of every layer and of the output, in proportion to
    `tensor_split`; `layers_per_device` has all layers for each, and `output_device` is the first device.
    """

    device_order: tuple[str, ...]
    layers_per_device: tuple[int, ...]
    output_device: str  # a device id, or "host"
    cpu_layers: int
    tensor_split: tuple[int, ...]
    n_gpu_layers: int
    overrides: tuple[Override, ...] = ()
    split_mode: SplitMode = SplitMode.LAYER

    @property
    def shares_layers_with_host(self) -> bool:
        """Whether a device computes layers, and weights of layers are on the host."""
        on_host = self.cpu_layers > 0 or any(override.device == HOST for override in self.overrides)
        return on_host and any(self.layers_per_device)

    def layer_devices(self) -> tuple[str, ...]:
        """The device id of each layer, or "host"; the first device's if all devices share every layer."""
        if self.split_mode is SplitMode.TENSOR:
            return self.device_order[:1] * self.layers_per_device[0]
        on_devices = zip(self.device_order, self.layers_per_device, strict=True)
        return (HOST,) * self.cpu_layers + tuple(id for id, count in on_devices for _ in range(count))

    def first_and_last(self, device_id: str) -> tuple[int, int] | None:
        """The first and the last of the layers on a device, or on the host; None if it has none."""
        if self.split_mode is SplitMode.TENSOR:
            return (0, self.layers_per_device[0] - 1) if device_id in self.device_order else None
        here = [layer for layer, place in enumerate(self.layer_devices()) if place == device_id]
        return (here[0], here[-1]) if here else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedEstimate:
    """Predicted speed of a placement. Unknown speeds are assumed.

    A basis is the least trusted source of the facts that a figure was computed from.
    """

    basis: Source  # of decode steps
    depth: int  # context depth of each stream, in tokens
    step_s: float  # of one stream: its time per token
    tokens_per_s: float
    streams: int
    streams_step_s: float | None  # of `streams` streams: one token for each
    streams_tokens_per_s: float | None  # of all streams together
    streams_basis: Source | None
    prompt_tokens: int
    prompt_s: float | None  # for `prompt_tokens` tokens: the time to the first token
    prompt_tokens_per_s: float | None
    prompt_stage_s: float | None  # the slowest device's time for a micro-batch
    prompt_basis: Source | None
    devices: tuple[DeviceTime, ...]  # in the order they compute; the host, if it has layers, first; DISK last
    tokens_per_s_range: SpeedRange | None = None  # None in plans of older versions
    streams_tokens_per_s_range: SpeedRange | None = None
    prompt_tokens_per_s_range: SpeedRange | None = None
    sums: StepSums | None = None  # None: each device has whole layers


Meter = Callable[[Placement], Estimate]
MeterFor = Callable[[Context], Meter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A plan that was not chosen, with its estimate."""

    name: str
    context: Context
    placement: Placement
    estimate: Estimate
    fits: bool
    change_bytes: dict[str, int]  # more (or less) than the chosen plan on each device, by the same meter
    speed: SpeedEstimate | None = None
    flags: tuple[str, ...] = ()  # options that plan it, added after those of the chosen plan


class CompanionKind(StrEnum):
    """Kind of file that shares the devices with a model."""

    LORA = "lora"
    CONTROL_VECTOR = "control-vector"
    MMPROJ = "mmproj"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """A file that is loaded with the model, and its memory on each device.

    `device` is a device id or "host"; None for an adapter, whose tensors are next to those they change.
    `method` names the meter of compute and context; weights are exact by either meter.
    """

    kind: CompanionKind
    path: str
    name: str
    total_bytes: int  # of the tensors in the file
    device: str | None
    uses: dict[str, MemoryUse]  # by device id, and "host"
    method: str
    scale: float = 1.0  # of an adapter or a control vector
    layer_range: tuple[int, int] | None = None  # of a control vector: the first and the last layer; None: all
    context: Context | None = None  # of a draft model
    n_layers: int | None = None  # of a draft model
    files: tuple[FileIdentity, ...] = ()  # empty in plans of older versions


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """The model of a plan: enough to load it and to detect that its file has changed."""

    path: str  # the first shard
    name: str
    architecture: str
    quantization: str
    n_layers: int
    total_bytes: int
    context_length: int | None = None  # trained length in tokens; None if the file lacks it
    expert_layers: tuple[int, ...] = ()  # layers with routed experts; empty in plans of older versions
    ffn_layers: tuple[int, ...] = ()  # layers with a dense feed-forward network; the same
    kv_overrides: tuple[MetadataOverride, ...] = ()  # of the file's metadata
    files: tuple[FileIdentity, ...] = ()  # its shards; empty in plans of older versions, and on a server


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDevice(Device):
    """A device as it was when the plan was made, and the reserve on it."""

    reserve_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Placement, memory and predicted speed of a model. The engine needs nothing else to load it."""

    version: int
    model: PlannedModel
    devices: tuple[PlannedDevice, ...]
    context: Context
    placement: Placement
    estimate: Estimate
    fits: bool
    by_free_memory: Alternative | None  # llama.cpp's default split
    dictated: bool = False  # the user gave the split or n_gpu_layers
    alternatives: tuple[Alternative, ...] = ()  # plans that differ by one change
    companions: tuple[Companion, ...] = ()
    objective: Objective = Objective.BALANCE  # of the placement
    speed: SpeedEstimate | None = None  # None in plans of older versions, which did not predict it
    speed_at_end: SpeedEstimate | None = None  # with a full context in each stream
    context_prices: tuple[ContextPrice, ...] = ()  # of other contexts, the shortest first
    notes: tuple[str, ...] = ()
    serving: Serving = Serving(slots_ram_bytes=0)  # every choice made
    host: Host | None = None  # as it was when the plan was made; None in plans of older versions
    disk_reads: DiskReads | None = None  # None: the memory holds all weights
    published: PublishedSpeed | None = None  # the nearest measurement of others; None: none is near

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """All files that the engine loads, as they were when the plan was made."""
        return (*self.model.files, *(file for companion in self.companions for file in companion.files))

    @property
    def host_reserve_bytes(self) -> int | None:
        """Bytes of the host's memory that stay free; None in plans of older versions."""
        if self.host is None:
            return None
        return max(self.host.available_bytes - self.estimate.host.budget_bytes, 0)

    @property
    def is_what_if(self) -> bool:
        """Whether it is for a host or for devices that are not here; it is never loaded then."""
        is_absent = self.host is not None and self.host.what_if
        return is_absent or any(device.what_if for device in self.devices)

    @property
    def used(self) -> tuple[str, ...]:
        """Ids of all devices in use: those with layers, then those with only companions."""
        with_layers = self.placement.device_order
        with_companions = {companion.device for companion in self.companions} - set(with_layers)
        return (*with_layers, *(device.id for device in self.devices if device.id in with_companions))

    def __str__(self) -> str:
        """The report that `vram-llm plan` prints, in ASCII, 80 columns wide."""
        from vram_llm.planner.report.text import as_text  # which reads this file

        return as_text(self)
