"""Flags that older versions of llama-server had, which many command lines still hold.

Sources: common/arg.cpp of llama.cpp between 2023 and 2026; tools/server/README.md of those versions.
"""

from vram_llm.cli.llama_server_line.flag import Ignored, OnOff, ValueKind, Words, row

_INT, _SWITCH, _ON_OFF = ValueKind.INT, ValueKind.SWITCH, ValueKind.ON_OFF
_EXTENDED = "llama-server has dropped self-extend; --rope-scaling yarn extends a context"

OLDER_FLAGS = (
    row("--mmap / --no-mmap", _ON_OFF, OnOff(Words(("--mmap",)), Words(("--no-mmap",))), "LLAMA_ARG_MMAP"),
    row("-dio --direct-io", _SWITCH, Words(("--no-mmap",))),
    row("--mlock", _SWITCH, Words(("--mlock",)), "LLAMA_ARG_MLOCK"),
    row("-gan --grp-attn-n", _INT, Ignored(_EXTENDED)),
    row("-gaw --grp-attn-w", _INT, Ignored(_EXTENDED)),
    row("--verbose-prompt", _SWITCH, Ignored("--log-prompts of `vram-llm serve` logs prompts")),
)
