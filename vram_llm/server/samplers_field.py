"""llama-server's `samplers`: the filters of a row of logits, in order."""

from typing import Annotated, Any

from pydantic import WithJsonSchema

from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported

_NAME = {"type": "string"}
SamplerNames = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"type": "array", "items": _NAME}, _NAME, {"type": "null"}]}),
]
_OFF: dict[str, dict[str, float]] = {  # in the usual order; the values turn a filter off
    "penalties": {"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
    "dry": {"dry_multiplier": 0.0},
    "top_n_sigma": {"top_n_sigma": -1.0},
    "top_k": {"top_k": 0},
    "typ_p": {"typical_p": 1.0},
    "top_p": {"top_p": 1.0},
    "min_p": {"min_p": 0.0},
    "xtc": {"xtc_probability": 0.0},
    "temperature": {"temperature": 1.0, "dynatemp_range": 0.0},
}
_NAMES = (*_OFF, "infill", "adaptive_p")
_ALSO = {"typical_p": "typ_p", "temp": "temperature"}
_REMOVED = ("tfs_z",)  # llama.cpp has removed this filter, so its name is skipped
_LETTERS = {
    "e": "penalties", "d": "dry", "s": "top_n_sigma", "k": "top_k", "y": "typ_p", "p": "top_p", "m": "min_p",
    "x": "xtc", "t": "temperature", "i": "infill", "a": "adaptive_p",
}  # fmt: skip
_MOST = 32  # each takes time for each token


def sampler_settings(samplers: object) -> dict[str, Any]:
    """SamplingParams fields that turn off the filters missing from `samplers`, and the order of the others.

    None has no effect. The usual order needs no field `samplers`, so that other ways of sampling are open.
    Raises RequestError for a value that is not a list of filters.
    """
    if samplers is None:
        return {}
    if isinstance(samplers, str):  # a letter per filter, or names between semicolons, as on its command line
        is_letters = ";" not in samplers and samplers not in _NAMES
        samplers = [_LETTERS.get(c, c) for c in samplers] if is_letters else samplers.split(";")
    if not isinstance(samplers, list) or not all(isinstance(name, str) for name in samplers):
        raise RequestError("'samplers' must be a list of names, or a string of their letters", "samplers")
    names = tuple(_ALSO.get(name, name) for name in samplers if name not in _REMOVED)
    for i, name in enumerate(names):
        if name not in _NAMES:
            raise NotSupported(f"'samplers[{i}]' must be one of {', '.join(_NAMES)}", f"samplers[{i}]")
    if len(names) > _MOST:
        raise RequestError(f"'samplers' has {len(names)} names; {_MOST} is the most", "samplers")
    off = {field: value for name, off in _OFF.items() if name not in names for field, value in off.items()}
    return off if names == tuple(name for name in _OFF if name in names) else {**off, "samplers": names}
