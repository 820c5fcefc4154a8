"""The scaling of rotary positions as llama-server's flags."""

from vram_llm.planner.export.setting import Setting
from vram_llm.planner.rope import Rope


def rope_settings(rope: Rope) -> tuple[Setting, ...]:
    """The fields that are given. llama-server's flags are named as the fields of llama_context_params."""
    numbers = tuple(
        Setting(f"--{name.replace('_', '-')}", str(value), f"LLAMA_ARG_{name.upper()}")
        for name, value in rope.numbers.items()
    )
    if rope.scaling is None:
        return numbers
    return (Setting("--rope-scaling", rope.scaling.value, "LLAMA_ARG_ROPE_SCALING_TYPE"), *numbers)
