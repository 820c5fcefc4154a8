"""How hard a model shall think: the names and values with which its chat template takes that.

Templates have no common name for it. What one reads is found by rendering it with each, never by searching
its source; a value that it refuses is replaced by the nearest one that it takes.
"""

from collections.abc import Mapping
from typing import Any

from vram_llm.chat.probe import Probe

Names = dict[str, Any]
OFF = ("none", "minimal")  # efforts that mean no thinking, to templates that can only switch it
_SWITCHES: tuple[tuple[str, Any, Any], ...] = (  # a name, its value for thinking, and for none
    ("enable_thinking", True, False),  # Qwen 3, GLM, Gemma 4, and most others
    ("thinking", True, False),  # DeepSeek V3.1, Granite 3.3, Kimi K3
    ("reasoning", True, False),  # Cohere2
    ("thinking_mode", "enabled", "disabled"),  # MiniMax M3
    ("thinking_option", "on", "off"),  # Ling
    ("thinking_budget", -1, 0),  # Seed-OSS; -1 is no limit
)
_LEVELS = (
    "reasoning_effort",  # gpt-oss, Solar Open, Hunyuan 3, DeepSeek V4
    "thinking_effort",  # Kimi K3
    "reasoning_strength",  # Muse
)
_VALUES = {  # what an effort may be called, the nearest first
    "none": ("none", "no_think", "minimal", "low"),
    "minimal": ("minimal", "no_think", "low"),
    "low": ("low", "minimal", "high"),
    "medium": ("medium", "high"),
    "high": ("high", "max"),
    "xhigh": ("xhigh", "max", "high"),
    "max": ("max", "xhigh", "high"),
}
EFFORTS = tuple(_VALUES)
_ALL = tuple(dict.fromkeys(value for values in _VALUES.values() for value in values))
_COMMON = ("low", "medium", "high")
_WORD = "q7word7q"


def find_efforts(probe: Probe) -> Mapping[str, Names]:
    """For each of EFFORTS, the names that the template reads, with their values; {} where it reads none.

    A template that writes any word into its prompt gets only "low", "medium" and "high", which models know.
    """
    efforts: dict[str, Names] = {effort: {} for effort in EFFORTS}
    switched: Names = {}
    for name, on, off in _SWITCHES:
        with_on, with_off = probe.prompt({name: on}), probe.prompt({name: off})
        if with_on and with_off and with_on != with_off:
            switched[name] = on
            for effort, names in efforts.items():
                names[name] = off if effort in OFF else on
    for name in _LEVELS:
        known = _COMMON if _WORD in probe.prompt({**switched, name: _WORD}) else _ALL
        prompts = {value: text for value in known if (text := probe.prompt({**switched, name: value}))}
        if len(set(prompts.values())) > 1:
            tails = {value: probe.tail({**switched, name: value}) for value in prompts}
            for effort, names in efforts.items():
                names[name] = _nearest(effort, tails)
    return efforts if any(efforts.values()) else {}


def switches(efforts: Mapping[str, Names], *, on: bool = True) -> Names:
    """The names that switch thinking on, or off, without a level of effort."""
    found = efforts.get("high", {})
    return {name: value if on else none for name, value, none in _SWITCHES if name in found}


def _nearest(effort: str, tails: Mapping[str, str]) -> str:
    """The value for `effort` among those taken; for no thinking, the first that ends the prompt otherwise."""
    taken = [value for value in _VALUES[effort] if value in tails] or list(tails)
    if effort in OFF and "high" in tails:
        return next((value for value in taken if tails[value] != tails["high"]), taken[0])
    return taken[0]
