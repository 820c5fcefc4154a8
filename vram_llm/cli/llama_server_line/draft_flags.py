"""Flags on speculative decoding."""

from vram_llm.cli.llama_server_line.flag import (
    Ignored,
    OnOff,
    Refused,
    Rule,
    ValueKind,
    row,
)

_INT, _TEXT, _SWITCH, _ON_OFF = ValueKind.INT, ValueKind.TEXT, ValueKind.SWITCH, ValueKind.ON_OFF
_DRAFTED = "the engine drafts as many tokens as pay"
_LOOKUP = "drafts from the prompt are always tried, and go on as long as they pay"
_SAME = "a draft model has the threads of the model"
_PLACED = "a draft model is whole on one device; -devd and -ngld 0 name it"
_KV = "a draft model's KV cache is f16"
_REMOVED = "llama-server has removed it"

DRAFT_FLAGS = (
    row("--spec-draft-model -md --model-draft", _TEXT, Rule("draft"), "LLAMA_ARG_SPEC_DRAFT_MODEL"),
    row("--spec-draft-hf -hfd -hfrd --hf-repo-draft", _TEXT, Rule("draft"), "LLAMA_ARG_SPEC_DRAFT_HF_REPO"),
    row("--spec-type", _TEXT, Rule("spec_type"), "LLAMA_ARG_SPEC_TYPE"),
    row("--spec-default", _SWITCH, Ignored(_LOOKUP)),
    row("--spec-draft-ngl -ngld --gpu-layers-draft --n-gpu-layers-draft", _TEXT, Rule("draft_layers"),
        "LLAMA_ARG_N_GPU_LAYERS_DRAFT"),
    row("--spec-draft-device -devd --device-draft", _TEXT, Rule("draft_device")),
    row("--spec-draft-override-tensor -otd --override-tensor-draft", _TEXT, Ignored(_PLACED)),
    row("--spec-draft-cpu-moe -cmoed --cpu-moe-draft", _SWITCH, Ignored(_PLACED),
        "LLAMA_ARG_SPEC_DRAFT_CPU_MOE"),
    row("--spec-draft-n-cpu-moe --spec-draft-ncmoe -ncmoed --n-cpu-moe-draft", _INT, Ignored(_PLACED),
        "LLAMA_ARG_SPEC_DRAFT_N_CPU_MOE"),
    row("--spec-draft-type-k -ctkd --cache-type-k-draft", _TEXT, Ignored(_KV),
        "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K"),
    row("--spec-draft-type-v -ctvd --cache-type-v-draft", _TEXT, Ignored(_KV),
        "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V"),
    row("--spec-draft-n-max", _INT, Ignored(_DRAFTED), "LLAMA_ARG_SPEC_DRAFT_N_MAX"),
    row("--spec-draft-n-min", _INT, Ignored(_DRAFTED), "LLAMA_ARG_SPEC_DRAFT_N_MIN"),
    row("--spec-draft-p-split --draft-p-split", _TEXT, Ignored(_DRAFTED), "LLAMA_ARG_SPEC_DRAFT_P_SPLIT"),
    row("--spec-draft-p-min --draft-p-min", _TEXT, Ignored(_DRAFTED), "LLAMA_ARG_SPEC_DRAFT_P_MIN"),
    row("--spec-synth-len", _TEXT, Refused("answers are never made up"), "LLAMA_ARG_SPEC_SYNTH_LEN"),
    row("--spec-synth-rates", _TEXT, Refused("answers are never made up"), "LLAMA_ARG_SPEC_SYNTH_RATES"),
    row("--spec-draft-backend-sampling / --no-spec-draft-backend-sampling", _ON_OFF, OnOff(
        Ignored(_DRAFTED), Ignored(_DRAFTED)
    ), "LLAMA_ARG_SPEC_DRAFT_BACKEND_SAMPLING"),
    row("--spec-draft-threads -td --threads-draft", _INT, Ignored(_SAME)),
    row("--spec-draft-threads-batch -tbd --threads-batch-draft", _INT, Ignored(_SAME)),
    row("--spec-draft-cpu-mask -Cd --cpu-mask-draft", _TEXT, Ignored(_SAME)),
    row("--spec-draft-cpu-range -Crd --cpu-range-draft", _TEXT, Ignored(_SAME)),
    row("--spec-draft-cpu-strict --cpu-strict-draft", _INT, Ignored(_SAME)),
    row("--spec-draft-prio --prio-draft", _INT, Ignored(_SAME)),
    row("--spec-draft-poll --poll-draft", _INT, Ignored(_SAME)),
    row("--spec-draft-cpu-mask-batch -Cbd --cpu-mask-batch-draft", _TEXT, Ignored(_SAME)),
    row("--spec-draft-cpu-strict-batch --cpu-strict-batch-draft", _INT, Ignored(_SAME)),
    row("--spec-draft-prio-batch --prio-batch-draft", _INT, Ignored(_SAME)),
    row("--spec-draft-poll-batch --poll-batch-draft", _INT, Ignored(_SAME)),
    row("-lcs --lookup-cache-static", _TEXT, Ignored(_LOOKUP)),
    row("-lcd --lookup-cache-dynamic", _TEXT, Ignored(_LOOKUP)),
    *(
        row(f"--spec-ngram-{name}", _INT, Ignored(_LOOKUP))
        for name in (
            "mod-n-min", "mod-n-max", "mod-n-match", "simple-size-n", "simple-size-m", "simple-min-hits",
            "map-k-size-n", "map-k-size-m", "map-k-min-hits", "map-k4v-size-n", "map-k4v-size-m",
            "map-k4v-min-hits",
        )
    ),
    row("--draft --draft-n --draft-max", _INT, Ignored(_REMOVED), "LLAMA_ARG_DRAFT_MAX"),
    row("--draft-min --draft-n-min", _INT, Ignored(_REMOVED), "LLAMA_ARG_DRAFT_MIN"),
    row("--spec-ngram-size-n", _INT, Ignored(_REMOVED)),
    row("--spec-ngram-size-m", _INT, Ignored(_REMOVED)),
    row("--spec-ngram-min-hits", _INT, Ignored(_REMOVED)),
)  # fmt: skip
