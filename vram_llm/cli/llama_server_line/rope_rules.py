"""Flags on RoPE and YaRN: of zero, or of a negative YaRN factor, llama.cpp makes the model's own value.

Source: llama_context::llama_context in llama-context.cpp.
"""

from collections.abc import Callable, Mapping

from vram_llm.cli.llama_server_line.read_line import Given
from vram_llm.cli.llama_server_line.translation import Translation

_SCALES = ("--rope-scale", "--rope-freq-scale")  # both set rope_freq_scale


def _rope(found: Translation, given: Given) -> None:
    _pass_on(found, given, is_own=_number(given) == 0)


def _rope_scale(found: Translation, given: Given) -> None:
    """The later one of the two flags counts."""
    later = [each for each in found.line.given if each.flag.names[0] in _SCALES][-1]
    if later is not given:
        found.ignored.append(f"ignored: {given}: {later} comes later and sets the same")
        return
    _pass_on(found, given, is_own=given.flag.names[0] == "--rope-freq-scale" and _number(given) == 0)


def _yarn_factor(found: Translation, given: Given) -> None:
    number = _number(given)
    _pass_on(found, given, is_own=number is not None and number < 0)


def _number(given: Given) -> float | None:
    """The value; None: no number, which `serve` refuses."""
    try:
        return float(given.value)
    except ValueError:
        return None


def _pass_on(found: Translation, given: Given, *, is_own: bool) -> None:
    if is_own:
        found.always.append(f"always so: {given}: the model's own value is used")
    else:
        found.add(given.flag.names[0], str(given.value))


ROPE_RULES: Mapping[str, Callable[[Translation, Given], None]] = {
    "rope": _rope,
    "rope_scale": _rope_scale,
    "yarn_factor": _yarn_factor,
}
