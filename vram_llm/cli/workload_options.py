"""The options of the planning commands that set fields of a Workload."""

import operator

import click

from vram_llm.cli.option_types import (
    ByteSizeType,
    ContextType,
    ControlVectorType,
    GpuLayersType,
    LayerRangeType,
    LoraType,
    MetadataType,
    MicroBatchType,
    SwitchType,
    TensorSplitType,
    TokenCountType,
)
from vram_llm.cli.override_options import OverrideListType
from vram_llm.cli.plan_option import PlanOption, choice_of
from vram_llm.cli.processor_options import PROCESSOR_OPTIONS
from vram_llm.cli.rope_options import ROPE_OPTIONS
from vram_llm.model.pooling import Pooling
from vram_llm.model.quants import KV_TYPES
from vram_llm.planner.tensor_split import SplitChoice
from vram_llm.planner.types import BackendSampling, FlashAttention, Objective, Workload
from vram_llm.units import MIB

_DEFAULT = Workload()
VECTORS = ("control_vectors",)  # two options set this field together
OVERRIDES = ("overrides",)  # several options set this field together, in the order typed

WORKLOAD_OPTIONS = (
    PlanOption(flags="--n-ctx -c --ctx-size", fields=("n_ctx",), type=ContextType(), has_default=False,
               metavar="TOKENS", help=(
        "Context of all sequences together: 4096, 32k, auto, max, or 0 (the trained context). auto: the "
        "longest context, up to the trained one, that loses at most 5% of the tokens per second against "
        f"{_DEFAULT.DEFAULT_N_CTX} tokens, with weights on the CPU only if those need it. max: the longest "
        "context that fits without more layers on the CPU.  [default: auto]"
    )),
    PlanOption(flags="--parallel -np", fields=("parallel",), type=click.IntRange(1, 256),
               help="Sequences served at the same time. llama-server and LM Studio have the same default."),
    PlanOption(flags="--kv-type", fields=("kv_type_k", "kv_type_v"), type=click.Choice(sorted(KV_TYPES)),
               help="Type of the KV cache."),
    PlanOption(flags="--kv-type-k -ctk --cache-type-k", fields=("kv_type_k",), has_default=False,
               type=click.Choice(sorted(KV_TYPES)), help="Type of the keys.  [default: as --kv-type]"),
    PlanOption(flags="--kv-type-v -ctv --cache-type-v", fields=("kv_type_v",), has_default=False,
               type=click.Choice(sorted(KV_TYPES)), help="Type of the values.  [default: as --kv-type]"),
    PlanOption(flags="--n-batch -b --batch-size", fields=("n_batch",), type=click.IntRange(1), metavar="N",
               has_default=False, help=(
        f"Maximum tokens per step.  [default: {_DEFAULT.DEFAULT_N_BATCH}, or --n-ubatch if that is more]"
    )),
    PlanOption(flags="--n-ubatch -ub --ubatch-size", fields=("n_ubatch",), type=MicroBatchType(),
               metavar="N", has_default=False, help=(
        "Maximum tokens computed at a time (micro-batch). A larger one takes more memory for compute "
        "buffers. For a prompt, weights on the CPU are read or copied to a card once for each micro-batch. "
        "auto: up to 8192 if such copies make a typical request faster, else "
        f"{_DEFAULT.DEFAULT_N_UBATCH}.  [default: auto]"
    )),
    PlanOption(flags="--kv-unified/--no-kv-unified", fields=("kv_unified",), help=(
        "Share one KV cache between all sequences; one sequence may use all of it. --no-kv-unified gives "
        "each sequence an equal part of --n-ctx (rounded up to 256); a request then reuses the prefix of "
        "one idle sequence only."
    )),
    PlanOption(flags="--swa-full/--no-swa-full", fields=("swa_full",), is_flag=True,
               help="Keep the whole context, not only the window, in layers with a sliding window."),
    *ROPE_OPTIONS,
    PlanOption(flags="--flash-attn -fa", fields=("flash_attn",), type=SwitchType([*map(str, FlashAttention)]),
               without_value="on", from_field=str, to_field=FlashAttention, help=(
        "Flash attention. auto: on if every device has a kernel for the model. off: needs more memory for "
        "every token of context, and cannot use a quantised KV cache."
    )),
    PlanOption(flags="--n-outputs-max", fields=("n_outputs_max",), type=click.IntRange(1), metavar="N",
               has_default=False, help=(
        "Maximum rows of logits per step; each row takes memory on the output's device.  "
        "[default: one per sequence, at least 8]"
    )),
    PlanOption(flags="--pipeline/--no-pipeline", fields=("pipeline_copies",),
               help="Keep copies of compute buffers, so that several devices work at the same time."),
    PlanOption(flags="--reserve-mib", fields=("reserve_bytes",), type=click.IntRange(0),
               from_field=lambda n_bytes: n_bytes // MIB, to_field=lambda mib: mib * MIB,
               help="Memory to leave free on every device and on the host."),
    PlanOption(flags="--n-gpu-layers -ngl --gpu-layers", fields=("n_gpu_layers",), type=GpuLayersType(),
               metavar="N", has_default=False, help=(
        "Layers to put on devices; as in llama.cpp, the output counts as one. all or -1: every layer; auto: "
        "as many as fit.  [default: auto]"
    )),
    PlanOption(flags="--tensor-split -ts", fields=("tensor_split",), type=TensorSplitType(), metavar="SHARES",
               has_default=False, help=(
        'Set the split: a share for each device in device order, "0,38,43", or shares by name in the order '
        'of computation, "GPU2=43,GPU1=38". A device without a share gets no layers.'
    )),
    PlanOption(flags="--split-mode -sm", fields=("split_mode",), type=choice_of(SplitChoice),
               has_default=False, to_field=SplitChoice, help=(
        "layer: each device has whole layers; tensor: a share of every layer (experimental in llama.cpp); "
        "auto: tensor if it is predicted faster by a quarter, with experts by half.  [default: layer, unless "
        "`tune` has measured that tensor is faster]"
    )),
    PlanOption(flags="--override-tensor -ot", fields=OVERRIDES, type=OverrideListType(), multiple=True,
               metavar="PATTERN=DEVICE,...", help=(
        "Put tensors whose names match a regular expression on a device (GPU0, CPU) other than their "
        'layer\'s, as in llama.cpp. Short forms: "experts:0-25=CPU", "ffn:3,7-9=GPU1", "ffn_down:all=CPU". '
        "The first match wins. none: move nothing; auto: what helps, as without this option."
    )),
    PlanOption(flags="--n-cpu-moe -ncmoe", fields=OVERRIDES, type=click.IntRange(0), multiple=True,
               metavar="N", help="Keep the routed experts of the first N layers on the CPU."),
    PlanOption(flags="--cpu-moe -cmoe", fields=OVERRIDES, is_flag=True, multiple=True,
               help="Keep the routed experts of all layers on the CPU."),
    PlanOption(flags="--n-cpu-ffn -ncffn", fields=OVERRIDES, type=click.IntRange(0), multiple=True,
               metavar="N", help="Keep the dense feed-forward weights of the first N layers on the CPU."),
    PlanOption(flags="--op-offload/--no-op-offload", fields=("op_offload",), help=(
        "Copy weights that are on the CPU to the first card for each micro-batch of a prompt, and compute "
        "there.  [default: what makes a typical request faster]"
    )),
    PlanOption(flags="--kv-offload/--no-kv-offload -kvo/-nkvo", fields=("kv_offload",), help=(
        "Keep the KV cache on the devices of its layers; --no-kv-offload keeps it on the CPU, where "
        "attention is then computed.  [default: --kv-offload]"
    )),
    PlanOption(flags="--override-kv", fields=("kv_overrides",), type=MetadataType(), multiple=True,
               to_field=lambda rows: tuple(override for row in rows for override in row),
               metavar="KEY=TYPE:VALUE,...", help=(
        "Replace a value of the model file's metadata, for the plan and for llama.cpp: "
        "qwen3moe.expert_used_count=int:4. The types are int, float, bool and str. Repeat for more."
    )),
    PlanOption(flags="--mmproj", fields=("mmproj",), metavar="FILE", has_default=False, help=(
        "The model's multimodal projector, placed on one device. Requests may then contain images.  "
        "[default: the projector in the model's folder that fits the model]"
    )),
    PlanOption(flags="--no-mmproj", fields=("find_mmproj",), is_flag=True, from_field=operator.not_,
               to_field=operator.not_, help="Do not use the projector in the model's folder."),
    PlanOption(flags="--mmproj-device -mmdev", fields=("mmproj_device",), metavar="DEVICE",
               has_default=False, help=(
        "The projector's device, such as GPU0, or host.  [default: the card with the most free memory]"
    )),
    PlanOption(flags="--lora", fields=("loras",), multiple=True, type=LoraType(), metavar="FILE[:SCALE]",
               help="Run with this LoRA adapter, applied at SCALE. Repeat for more.  [default scale: 1]"),
    PlanOption(flags="--control-vector", fields=VECTORS, multiple=True, metavar="FILE,...",
               type=ControlVectorType(scaled=False), help=(
        "Add this control vector to the output of the model's layers. Repeat for more, which are added up."
    )),
    PlanOption(flags="--control-vector-scaled", fields=VECTORS, multiple=True, metavar="FILE:SCALE,...",
               type=ControlVectorType(scaled=True), help="The same, multiplied by SCALE."),
    PlanOption(flags="--control-vector-layer-range", fields=("control_vector_layers",),
               type=LayerRangeType(), metavar="FIRST-LAST", has_default=False, help=(
        "Layers that control vectors are added to, both ends included.  [default: all]"
    )),
    PlanOption(flags="--draft -md --model-draft", fields=("draft",), metavar="MODEL", has_default=False,
               help=(
        "Draft model: a smaller model of the same vocabulary that drafts tokens for MODEL to verify. It goes "
        "on an idle card, or else on the card with the most free memory. Its context is as long as MODEL's. "
        "mtp: MODEL's own MTP head; auto: this head if the file has one and it pays; none: no drafts.  "
        "[default: none, unless `tune` has measured that the head pays]"
    )),
    PlanOption(flags="--draft-device -devd --device-draft", fields=("draft_device",), metavar="DEVICE",
               has_default=False, help="The draft model's device, such as GPU0, or host."),
    PlanOption(flags="--threads -t", fields=("n_threads",), type=click.IntRange(1), metavar="N",
               has_default=False, help="CPU threads.  [default: one per core]"),
    PlanOption(flags="--threads-batch -tb", fields=("n_threads_batch",), type=click.IntRange(1), metavar="N",
               has_default=False,
               help="CPU threads for steps of several tokens.  [default: as --threads]"),
    *PROCESSOR_OPTIONS,
    PlanOption(flags="--backend-sampling", fields=("backend_sampling",), type=choice_of(BackendSampling),
               from_field=str, to_field=BackendSampling, help=(
        "Sample tokens on the output's device instead of the host, if the request allows it. auto: on if "
        "every device is an NVIDIA, AMD (ROCm) or Apple GPU of this computer."
    )),
    PlanOption(flags="--itl-target-ms", fields=("serving.itl_target_ms",), type=click.FloatRange(1),
               help="Target inter-token latency while other requests prefill."),
    PlanOption(flags="--cache-reuse", fields=("serving.cache_reuse",), type=click.IntRange(0),
               metavar="TOKENS", help="Shortest shared prefix worth reusing; 0 disables prefix reuse."),
    PlanOption(flags="--slots-ram", fields=("serving.slots_ram_bytes",), type=ByteSizeType(), metavar="SIZE",
               has_default=False, help=(
        "Host memory for KV cache states evicted from the devices; 0: none.  "
        "[default: a quarter of the host memory that the plan leaves, at most 8 GiB; none with workers]"
    )),
    PlanOption(flags="--slots-disk", fields=("serving.slots_disk_bytes",), type=ByteSizeType(),
               metavar="SIZE", has_default=False,
               help="Disk space for KV cache states evicted from host memory.  [default: none]"),
    PlanOption(flags="--check-tensors", fields=("serving.check_tensors",), is_flag=True,
               help="Read all weights at each load and refuse a file with values that no weight can have."),
    PlanOption(flags="--objective", fields=("objective",), type=choice_of(Objective), from_field=str,
               to_field=Objective, help=(
        "Goal of the placement: latency (shortest step: fastest cards first, may leave a slow card idle), "
        "throughput (fastest prompts: the slowest stage is as fast as possible), context (longest "
        "context), balance (memory spread evenly)."
    )),
    PlanOption(flags="--expect-depth", fields=("expect_depth",), type=TokenCountType(), metavar="TOKENS",
               has_default=False, help=(
        "Context depth assumed when predicting speed.  "
        f"[default: {_DEFAULT.DEFAULT_DEPTH}, or half the context if that is less]"
    )),
    PlanOption(flags="--expect-streams", fields=("expect_streams",), type=click.IntRange(1, 256),
               help="Sequences that decode at the same time, assumed when predicting speed."),
    PlanOption(flags="--tuned/--no-tuned", fields=("use_tuned",), help=(
        "Use the plan that `vram-llm tune` measured to be the fastest for this model, machine and workload."
    )),
    PlanOption(flags="--pooling", fields=("pooling",), type=choice_of(Pooling), has_default=False,
               to_field=Pooling, help=(
        "Compute embeddings instead of text, from the mean of the tokens, the first token (cls) or the last "
        "token; none: a vector for each token; rank: score documents.  [default: the model file's pooling; "
        "without one, generate text]"
    )),
    PlanOption(flags="--from-disk", fields=("from_disk",), is_flag=True, help=(
        "Run a model that the memory does not hold: as many weights as fit stay there, and each token reads "
        "the others from the model's file. Without the flag such a model is refused."
    )),
    PlanOption(flags="--mmap/--no-mmap", fields=("use_mmap",), help=(
        "Memory-map the file, or read it.  [default: mmap, unless a device and the host share layers]"
    )),
)  # fmt: skip
