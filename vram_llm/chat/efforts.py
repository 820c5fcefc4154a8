"""The efforts of thinking: the variables of a chat template, and their values for each effort.

Templates have no common name for it. A template's variable is found by rendering it with each name, never by
searching its source. A value that the template refuses is replaced by the nearest that it accepts.
"""

from collections.abc import Mapping
from typing import Any

from vram_llm.chat.template_probe import TemplateProbe

Names = dict[str, Any]
OFF = ("none", "minimal")  # efforts without thinking, for templates that can only switch it
_SWITCHES: tuple[tuple[str, Any, Any], ...] = (  # a name, its value with thinking, its value without
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
_VALUES = {  # the values of an effort, the nearest first
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


def find_efforts(probe: TemplateProbe) -> Mapping[str, Names]:
    """The variables that the template reads, with their values, for each of EFFORTS; {} if it reads none.

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
    """The variables that switch thinking on, or off, without a level of effort."""
    variables = efforts.get("high", {})
    return {name: value if on else none for name, value, none in _SWITCHES if name in variables}


def _nearest(effort: str, tails: Mapping[str, str]) -> str:
    """The nearest accepted value for `effort`; without thinking, the first that changes the prompt's end."""
    taken = [value for value in _VALUES[effort] if value in tails] or list(tails)
    if effort in OFF and "high" in tails:
        return next((value for value in taken if tails[value] != tails["high"]), taken[0])
    return taken[0]
