"""The sampling parameters that a model file recommends: its `general.sampling.*` metadata."""

import math
from collections.abc import Callable

_FLOATS = {
    "temp": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "penalty_repeat": "repeat_penalty",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
_INTS = {"top_k": "top_k", "penalty_last_n": "repeat_last_n", "mirostat": "mirostat"}


def sampling_of_file(metadata: Callable[[str], str | None]) -> tuple[tuple[str, float | int], ...]:
    """Fields of SamplingParams and their values. `metadata` returns the value of a key as text.

    The keys are those that llama.cpp reads (common/common.cpp, common_init_sampler_from_model). A value that
    is no number, or is below 0, is left out; only `penalty_last_n` may be -1, the whole context.
    """
    found: list[tuple[str, float | int]] = []
    for key, name in (_FLOATS | _INTS).items():
        number = _number(metadata(f"general.sampling.{key}"))
        if number is not None and (number >= 0 or (number == -1 and name == "repeat_last_n")):
            found.append((name, int(number) if key in _INTS else number))
    return tuple(found)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
