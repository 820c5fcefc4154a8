"""Flags on the model's place in memory: devices, layers, tensors, KV cache, threads."""

from vram_llm.cli.llama_server_line.flag import (
    Always,
    ByValue,
    Ignored,
    OnOff,
    Option,
    Refused,
    Rule,
    ValueKind,
    Words,
    row,
)

_INT, _TEXT, _SWITCH, _ON_OFF = ValueKind.INT, ValueKind.TEXT, ValueKind.SWITCH, ValueKind.ON_OFF
_AUTO_THREADS = Always("one thread for each core")
_PLACED = "the plan decides what fits"

PLACEMENT_FLAGS = (
    row("-dev --device", _TEXT, Rule("device"), "LLAMA_ARG_DEVICE"),
    row("-ngl --gpu-layers --n-gpu-layers", _TEXT, Rule("n_gpu_layers"), "LLAMA_ARG_N_GPU_LAYERS"),
    row("-sm --split-mode", _TEXT, ByValue(
        {
            "layer": Words(("--split-mode", "layer")),
            "tensor": Words(("--split-mode", "tensor")),
            "none": Rule("one_device"),
            "row": Refused(
                "a split by rows is not offered: -sm layer gives each card whole layers, and -sm tensor "
                "shares every layer between the cards"
            ),
        },
        Refused("it is none, layer or tensor"),
    ), "LLAMA_ARG_SPLIT_MODE"),
    row("-ts --tensor-split", _TEXT, Rule("tensor_split"), "LLAMA_ARG_TENSOR_SPLIT"),
    row("-mg --main-gpu", _INT, Rule("main_gpu"), "LLAMA_ARG_MAIN_GPU"),
    row("-ot --override-tensor", _TEXT, Rule("override_tensor"), "LLAMA_ARG_OVERRIDE_TENSOR"),
    row("-cmoe --cpu-moe", _SWITCH, Words(("--cpu-moe",)), "LLAMA_ARG_CPU_MOE"),
    row("-ncmoe --n-cpu-moe", _INT, Option("--n-cpu-moe"), "LLAMA_ARG_N_CPU_MOE"),
    row("-ncffn --n-cpu-ffn", _INT, Option("--n-cpu-ffn"), "LLAMA_ARG_N_CPU_FFN"),
    row("--rpc", _TEXT, Option("--rpc", each=True), "LLAMA_ARG_RPC"),
    row("-fit --fit", _TEXT, ByValue(
        {
            **dict.fromkeys(("on", "1", "true", "enabled"), Always(_PLACED)),
            **dict.fromkeys(("off", "0", "false", "disabled"), Ignored(_PLACED)),
        },
        Refused("it is on or off"),
    ), "LLAMA_ARG_FIT"),
    row("-fitt --fit-target", _TEXT, Rule("fit_target"), "LLAMA_ARG_FIT_TARGET"),
    row("-fitc --fit-ctx", _INT, Ignored("without -c the plan chooses the context"), "LLAMA_ARG_FIT_CTX"),
    row("-c --ctx-size", _INT, Option("--n-ctx"), "LLAMA_ARG_CTX_SIZE"),
    row("--kv-unified-per-slot", _INT, Rule("context_per_slot"), "LLAMA_ARG_KV_UNIFIED_PER_SLOT"),
    row("-b --batch-size", _INT, Option("--n-batch"), "LLAMA_ARG_BATCH"),
    row("-ub --ubatch-size", _INT, Rule("micro_batch"), "LLAMA_ARG_UBATCH"),
    row("-np --parallel", _INT, Rule("parallel"), "LLAMA_ARG_N_PARALLEL"),
    row("-kvu --kv-unified / -no-kvu --no-kv-unified", _ON_OFF, Rule("kv_unified"), "LLAMA_ARG_KV_UNIFIED"),
    row("-fa --flash-attn", _TEXT, Option("--flash-attn"), "LLAMA_ARG_FLASH_ATTN"),
    row("-ctk --cache-type-k", _TEXT, Option("--kv-type-k"), "LLAMA_ARG_CACHE_TYPE_K"),
    row("-ctv --cache-type-v", _TEXT, Option("--kv-type-v"), "LLAMA_ARG_CACHE_TYPE_V"),
    row("-kvo --kv-offload / -nkvo --no-kv-offload", _ON_OFF, OnOff(
        Words(("--kv-offload",)), Words(("--no-kv-offload",))
    ), "LLAMA_ARG_KV_OFFLOAD"),
    row("--op-offload / --no-op-offload", _ON_OFF, OnOff(
        Words(("--op-offload",)), Words(("--no-op-offload",))
    )),
    row("--swa-full", _SWITCH, Words(("--swa-full",)), "LLAMA_ARG_SWA_FULL"),
    row("-lm --load-mode", _TEXT, ByValue(
        {
            "auto": Always("the file is mapped unless reading it is faster"),
            "mmap": Words(("--mmap",)),
            "none": Words(("--no-mmap",)),
            "dio": Words(("--no-mmap",)),
            "mlock": Words(("--no-mmap", "--mlock")),
            "mmap+mlock": Words(("--mmap", "--mlock")),
        },
        Refused("it is auto, none, mmap, mlock, mmap+mlock or dio"),
    ), "LLAMA_ARG_LOAD_MODE"),
    row("-lzm --lazy-mode", _TEXT, Ignored("llama.cpp's own choice, auto, is used"), "LLAMA_ARG_LAZY_MODE"),
    row("--repack / -nr --no-repack", _ON_OFF, OnOff(
        Always("the host's weights are repacked where that helps"), Words(("--no-repack",))
    ), "LLAMA_ARG_REPACK"),
    row("--no-host", _SWITCH, Words(("--no-host",)), "LLAMA_ARG_NO_HOST"),
    row("-dt --defrag-thold", _TEXT, Ignored("llama.cpp itself has dropped it"), "LLAMA_ARG_DEFRAG_THOLD"),
    row("--check-tensors", _SWITCH, Words(("--check-tensors",))),
    row("-t --threads", _INT, ByValue({"-1": _AUTO_THREADS, "0": _AUTO_THREADS}, Option("--threads")),
        "LLAMA_ARG_THREADS"),
    row("-tb --threads-batch", _INT, ByValue({"-1": _AUTO_THREADS, "0": _AUTO_THREADS},
                                            Option("--threads-batch"))),
    row("-C --cpu-mask", _TEXT, Option("--cpu-mask")),
    row("-Cr --cpu-range", _TEXT, Option("--cpu-range")),
    row("--cpu-strict", _TEXT, Option("--cpu-strict")),
    row("--prio", _INT, Option("--prio")),
    row("--poll", _TEXT, Option("--poll")),
    row("-Cb --cpu-mask-batch", _TEXT, Option("--cpu-mask-batch")),
    row("-Crb --cpu-range-batch", _TEXT, Option("--cpu-range-batch")),
    row("--cpu-strict-batch", _INT, Option("--cpu-strict-batch")),
    row("--prio-batch", _INT, Option("--prio-batch")),
    row("--poll-batch", _INT, Option("--poll-batch")),
    row("--numa", _TEXT, Option("--numa"), "LLAMA_ARG_NUMA"),
)  # fmt: skip
"""The rows; an ON_OFF or SWITCH variable is read as llama-server reads it."""
