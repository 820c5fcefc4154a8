"""What is asked of a plan and what it answers. All frozen; a Plan goes to JSON and back."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from vram_llm.machine.types import Device, Source
from vram_llm.model.pooling import Pooling
from vram_llm.planner.estimates import Estimate, MemoryUse
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.units import MIB

HOST = "host"  # the id of the computer itself where a device id is expected

PLAN_VERSION = 1
MOST_BIASED = 1024
"""Tokens that a chain on a device may favour or disfavour: it has a place kept for their numbers."""


class FlashAttention(StrEnum):
    """Whether attention is computed without a table of all its scores."""

    AUTO = "auto"  # where every device has a kernel for the model's heads
    ON = "on"  # what a device has no kernel for is then computed on the host
    OFF = "off"


class BackendSampling(StrEnum):
    """Whether tokens are chosen on the device that has the logits, where a request allows it."""

    AUTO = "auto"  # where every device is a GPU of this computer, not by Vulkan
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA adapter's file, and how strongly it is applied."""

    path: str
    scale: float = 1.0


class Objective(StrEnum):
    """What a placement is to be best at, among those with as few layers on the host as can be."""

    LATENCY = "latency"  # the shortest decode step: the fastest card first, a slow one may be left idle
    THROUGHPUT = "throughput"  # prompts: the slowest stage of a micro-batch as short as can be
    CONTEXT = "context"  # as much context as fits, where none is named; memory as in BALANCE
    BALANCE = "balance"  # the fullest device least full, whatever its speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How the engine shares the context among requests. Nothing here changes what llama.cpp itself holds."""

    itl_target_ms: float = 100.0  # what a step may take in which some sequences decode and others prefill
    cache_reuse: int = 32  # shortest common beginning worth sharing between requests, in tokens; 0: none
    slots_ram_bytes: int | None = None  # host memory for states that leave the KV cache and may come back
    slots_disk_bytes: int = 0  # disk for what has to leave that
    idle_tokens: int | None = None  # left in the KV cache beside running requests; None: no bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the user wants to run. `None` leaves the choice to the planner.

    `n_ctx` counts the KV cells of all `parallel` sequences together. With `kv_unified` they share them and
    any one may use them all; without, each has a cache of its own with its share of them.
    """

    n_ctx: int | None = None  # None: as long as costs next to nothing; 0: what the model was trained on
    largest_ctx: bool = False  # as much context as fits, in place of `n_ctx`
    parallel: int = 4  # as llama-server and LM Studio
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    n_batch: int = 2048
    n_ubatch: int = 512
    n_outputs_max: int | None = None  # rows of logits a step may ask for; one a sequence, and at least 8
    flash_attn: FlashAttention = FlashAttention.AUTO
    swa_full: bool = False
    kv_unified: bool = True
    reserve_bytes: int = 1024 * MIB  # kept free on every device and on the host
    n_gpu_layers: int | None = None  # as llama.cpp counts them: the output is one of them
    tensor_split: TensorSplit | None = None
    pooling: Pooling | None = None  # make embeddings, pooled so; None: as the model's file says
    use_mmap: bool = True
    pipeline_copies: bool = True
    mmproj: str | None = None  # the file of a multimodal projector
    find_mmproj: bool = True  # use the one in the model's folder where `mmproj` names none
    loras: tuple["Lora", ...] = ()
    draft: str | None = None  # a smaller model that guesses tokens for this one to check
    n_threads: int | None = None
    n_threads_batch: int | None = None
    backend_sampling: BackendSampling = BackendSampling.AUTO
    serving: Serving = Serving()
    objective: Objective = Objective.LATENCY
    expect_depth: int | None = None  # tokens a sequence has behind it at an average decode step
    expect_streams: int = 1  # sequences that decode at the same time, as the objective sees it

    DEFAULT_N_CTX = 8192  # the measure of a context that is left open; all of it where nothing is on a card
    DEFAULT_TEXT = 2048  # the same for encoders, whose compute buffers grow with the longest text
    DEFAULT_DEPTH = 1024  # or half the context if that is less
    DEFAULT_PROMPT = (
        2048  # of a predicted prompt, with the same bound; `expect_depth` tokens where it is given
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The llama.cpp context a plan calls for, every choice made."""

    n_ctx: int  # cells of all sequences; each one's share of them is a multiple of 256, as llama.cpp pads it
    parallel: int
    kv_type_k: str
    kv_type_v: str
    n_batch: int
    n_ubatch: int
    n_threads: int
    use_mmap: bool
    pipeline_copies: bool  # made where llama.cpp can; they speed up prompts and many streams, and cost memory
    n_threads_batch: int | None = None  # for steps of more than one token; None: as many as for one
    n_threads_given: bool = False  # the user chose n_threads; else: the cores of the planning computer
    n_outputs_max: int | None = None  # rows of logits a micro-batch may ask for; None: one for each sequence
    flash_attn: FlashAttention = FlashAttention.AUTO
    swa_full: bool = False  # layers with a sliding window keep all of the context
    kv_unified: bool = True  # one cache for all sequences; else each has its own
    pooling: Pooling | None = None  # embeddings are made, pooled so; None: text is written
    backend_sampling: bool = False  # tokens are chosen on the output's device, where a request allows it

    @property
    def n_ctx_seq(self) -> int:
        """Tokens one sequence may hold (llama_context's n_ctx_seq)."""
        return self.n_ctx // self.n_caches

    @property
    def n_caches(self) -> int:
        """KV caches side by side (llama_kv_cache's n_stream)."""
        return 1 if self.kv_unified else self.parallel

    @property
    def n_outputs(self) -> int:
        """The most rows of logits a micro-batch may ask for."""
        return self.parallel if self.n_outputs_max is None else self.n_outputs_max


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which layers where. Layers 0 to cpu_layers-1 stay on the host, the rest follow `device_order`.

    `layers_per_device` counts repeating layers; `tensor_split` is the same with the output counted on
    its device, which is what llama.cpp wants. Devices without any are left out.
    """

    device_order: tuple[str, ...]
    layers_per_device: tuple[int, ...]
    output_device: str  # a device id, or "host"
    cpu_layers: int
    tensor_split: tuple[int, ...]
    n_gpu_layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTime:
    """What one device, or the host, takes of a decode step of one stream."""

    id: str
    seconds: float
    share: float  # of the step


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedEstimate:
    """How fast a placement is expected to be. Where a speed is not known, an assumed one is counted with.

    A basis is the least trusted source of what a figure was worked out from.
    """

    basis: Source  # of decode steps
    depth: int  # tokens each stream has behind it
    step_s: float  # of one stream, which is its time for a token
    tokens_per_s: float
    streams: int
    streams_step_s: float | None  # of so many streams, each a token
    streams_tokens_per_s: float | None  # of all together
    streams_basis: Source | None
    prompt_tokens: int
    prompt_s: float | None  # for so many tokens: the time to the first token
    prompt_tokens_per_s: float | None
    prompt_stage_s: float | None  # what the slowest device takes for a micro-batch
    prompt_basis: Source | None
    devices: tuple[DeviceTime, ...]  # in the order they compute, the host first where it has layers


Meter = Callable[[Placement], Estimate]
MeterFor = Callable[[Context], Meter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A plan that was not chosen, and what it would hold."""

    name: str
    context: Context
    placement: Placement
    estimate: Estimate
    fits: bool
    change_bytes: dict[str, int]  # more (or less) than the chosen plan on each device, by the same meter
    speed: SpeedEstimate | None = None
    flags: tuple[str, ...] = ()  # that plan it, typed after those of the plan that was chosen


class CompanionKind(StrEnum):
    """What shares the devices with a model."""

    LORA = "lora"
    MMPROJ = "mmproj"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """A file that is loaded beside the model, and what it holds there.

    `device` is a device id or "host"; None for an adapter, whose tensors are each with the one they change.
    `method` names the meter that gave compute and context; weights are to the byte by either.
    """

    kind: CompanionKind
    path: str
    name: str
    total_bytes: int  # of the tensors in the file
    device: str | None
    uses: dict[str, MemoryUse]  # by device id, and "host"
    method: str
    scale: float = 1.0  # of an adapter
    context: Context | None = None  # of a draft model
    n_layers: int | None = None  # of a draft model


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPrice:
    """Another context than the plan's, and what it costs against the plan at the same depth."""

    n_ctx: int
    kv_type: str | None = None  # of K and V; None: as planned
    cpu_layers: int = 0  # that stay on the host with it
    cost: float  # share of the plan's tokens per second; below 0: it is faster
    tokens_per_s: float  # of one stream, predicted
    is_longest: bool = False  # no longer one fits without more layers on the host
    method: str = "analytic"  # the meter that found it to fit


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """The model a plan is for: enough to load it and to notice that the file has changed."""

    path: str  # the first shard
    name: str
    architecture: str
    quantization: str
    n_layers: int
    total_bytes: int
    context_length: int | None = None  # tokens that it was trained on; None where its file does not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDevice(Device):
    """A device as it was when the plan was made, and what is kept free on it."""

    reserve_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which layers on which device, what each will hold, and why. All the engine needs to load a model."""

    version: int
    model: PlannedModel
    devices: tuple[PlannedDevice, ...]
    context: Context
    placement: Placement
    estimate: Estimate
    fits: bool
    by_free_memory: Alternative | None  # the split llama.cpp makes when told nothing
    dictated: bool = False  # the user gave the split or the number of layers off the host
    alternatives: tuple[Alternative, ...] = ()  # what one change would buy or cost
    companions: tuple[Companion, ...] = ()
    objective: Objective = Objective.BALANCE  # what the placement was chosen by
    speed: SpeedEstimate | None = None  # None in plans of versions that did not predict it
    speed_at_end: SpeedEstimate | None = None  # with the whole context behind each stream
    context_prices: tuple[ContextPrice, ...] = ()  # of other contexts, the shortest first
    notes: tuple[str, ...] = ()
    serving: Serving = Serving(slots_ram_bytes=0)  # every choice made

    @property
    def used(self) -> tuple[str, ...]:
        """The devices that anything is put on: the placement's, then those of what stands beside alone."""
        order, besides = self.placement.device_order, {each.device for each in self.companions}
        return (*order, *(each.id for each in self.devices if each.id in besides and each.id not in order))

    def __str__(self) -> str:
        """The report that `vram-llm plan` prints, in ASCII, 80 columns wide."""
        from vram_llm.planner.report.text import as_text  # which reads this file

        return as_text(self)
