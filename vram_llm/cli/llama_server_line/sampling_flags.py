"""Flags on the sampling of requests that leave it open, and on their answers."""

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
_EACH_REQUEST = "the server has no default for it: send {} in each request"

SAMPLING_FLAGS = (
    row("-s --seed", _TEXT, Option("--seed")),
    row("--temp --temperature", _TEXT, Option("--temperature"), "LLAMA_ARG_TEMPERATURE"),
    row("--top-k", _INT, Option("--top-k"), "LLAMA_ARG_TOP_K"),
    row("--top-p", _TEXT, Option("--top-p"), "LLAMA_ARG_TOP_P"),
    row("--min-p", _TEXT, Option("--min-p"), "LLAMA_ARG_MIN_P"),
    row("--repeat-penalty", _TEXT, Option("--repeat-penalty"), "LLAMA_ARG_REPEAT_PENALTY"),
    row("--repeat-last-n", _INT, Option("--repeat-last-n")),
    row("--presence-penalty", _TEXT, Option("--presence-penalty"), "LLAMA_ARG_PRESENCE_PENALTY"),
    row("--frequency-penalty", _TEXT, Option("--frequency-penalty"), "LLAMA_ARG_FREQUENCY_PENALTY"),
    row("--top-nsigma --top-n-sigma", _TEXT, Option("--top-n-sigma")),
    row("--typical --typical-p", _TEXT, Option("--typical")),
    row("--xtc-probability", _TEXT, Option("--xtc-probability")),
    row("--xtc-threshold", _TEXT, Option("--xtc-threshold")),
    row("--dry-multiplier", _TEXT, Option("--dry-multiplier")),
    row("--dry-base", _TEXT, Option("--dry-base")),
    row("--dry-allowed-length", _INT, Option("--dry-allowed-length")),
    row("--dry-penalty-last-n", _INT, Option("--dry-penalty-last-n")),
    row("--dry-sequence-breaker", _TEXT, Refused(_EACH_REQUEST.format("dry_sequence_breakers"))),
    row("--mirostat", _INT, Option("--mirostat")),
    row("--mirostat-lr", _TEXT, Option("--mirostat-lr")),
    row("--mirostat-ent", _TEXT, Option("--mirostat-ent")),
    row("--samplers", _TEXT, Rule("samplers")),
    row("--sampler-seq --sampling-seq", _TEXT, Rule("samplers")),
    row("--adaptive-target", _TEXT, ByValue(
        {"-1": Always("it is off")},
        Refused(_EACH_REQUEST.format("adaptive_target, and samplers with adaptive_p,")),
    )),
    row("--adaptive-decay", _TEXT, Ignored("it does nothing without --adaptive-target")),
    row("--dynatemp-range", _TEXT, Option("--dynatemp-range")),
    row("--dynatemp-exp", _TEXT, Option("--dynatemp-exp")),
    row("-l --logit-bias", _TEXT, Refused(_EACH_REQUEST.format("logit_bias"))),
    row("--ignore-eos", _SWITCH, Refused(_EACH_REQUEST.format("ignore_eos"))),
    row("--grammar", _TEXT, Refused(_EACH_REQUEST.format("grammar"))),
    row("--grammar-file", _TEXT, Refused(_EACH_REQUEST.format("grammar"))),
    row("-j --json-schema", _TEXT, Refused(_EACH_REQUEST.format("response_format"))),
    row("-jf --json-schema-file", _TEXT, Refused(_EACH_REQUEST.format("response_format"))),
    row("-bs --backend-sampling", _SWITCH, Words(("--backend-sampling", "on")),
        "LLAMA_ARG_BACKEND_SAMPLING"),
    row("-n --predict --n-predict", _INT, Option("--n-predict"), "LLAMA_ARG_N_PREDICT"),
    row("-r --reverse-prompt", _TEXT, Refused(_EACH_REQUEST.format("stop"))),
    row("--keep", _INT, Ignored("a context is never shifted, so all of a prompt is kept")),
    row("--context-shift / --no-context-shift", _ON_OFF, OnOff(
        Refused(
            "a context is never shifted: an answer ends where the context is full; "
            "`vram-llm serve --truncate` drops a chat's oldest turns"
        ),
        Always("an answer ends where the context is full"),
    ), "LLAMA_ARG_CONTEXT_SHIFT"),
    row("-sp --special", _SWITCH, Refused("special tokens are not part of answers")),
    row("-e --escape / --no-escape", _ON_OFF, Ignored("it is for prompts on the command line")),
    row("--spm-infill", _SWITCH, Words(("--spm-infill",))),
    row("--embd-normalize", _INT, Option("--embd-normalize")),
)  # fmt: skip
