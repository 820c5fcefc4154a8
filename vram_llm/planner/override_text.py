"""Overrides as users write them: llama.cpp's PATTERN=DEVICE, and PART:LAYERS=DEVICE for parts of layers.

\\.ffn_.*_exps\\.=CPU            a regular expression, as in llama.cpp
experts:0-25=CPU               the routed experts of layers 0 to 25
ffn_down:3,7-9=GPU1            one matrix of four layers
experts:all=host               host and CPU are the same
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from vram_llm.errors import BadPlan
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST

FLAG = "--override-tensor"
AUTO, NONE = "auto", "none"  # in place of overrides: the planner chooses; no tensor moves
ALL = "all"
CPU = "CPU"  # llama.cpp's name of the host's buffer type
_SHORT = re.compile(rf"({'|'.join(LayerPart)}):({ALL}|[\d,-]+)")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_MOST_LAYERS = 10_000
_FIRST_LAYERS = {LayerPart.EXPERTS: "--n-cpu-moe", LayerPart.FFN: "--n-cpu-ffn"}


def parse_overrides(text: str) -> tuple[Override, ...]:
    """From "PATTERN=DEVICE,..." or "PART:LAYERS=DEVICE,...".

    Patterns and devices are not checked (override_check.py). Raises BadPlan.
    """
    return tuple(_override(piece) for piece in _pieces(text))


def _pieces(text: str) -> Iterator[str]:
    """The overrides in `text`. As in llama.cpp a comma ends one, but not within a list of layers."""
    piece = ""
    for part in text.split(","):
        piece = f"{piece},{part}" if piece else part
        if "=" not in part and _SHORT.fullmatch(piece):
            continue
        yield piece
        piece = ""
    if piece:
        yield piece


def _override(piece: str) -> Override:
    pattern, equals, device = piece.partition("=")  # at the first, as in llama.cpp
    if not (pattern and equals and device):
        raise BadPlan(
            f"{piece!r} is no override; write it like experts:0-25=CPU, or as llama.cpp does: "
            r"PATTERN=DEVICE, with a pattern that has neither = nor a comma"
        )
    device = HOST if device.casefold() in (CPU.casefold(), HOST) else device
    short = _SHORT.fullmatch(pattern)
    if short is None:
        return Override(pattern=pattern, device=device)
    part = LayerPart(short[1])
    return Override.of_all(part, device) if short[2] == ALL else Override.of(part, _layers(short[2]), device)


def _layers(text: str) -> set[int]:
    """From "3,7-9". Raises BadPlan."""
    layers: set[int] = set()
    for part in text.split(","):
        found = _RANGE.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < _MOST_LAYERS:
            raise BadPlan(f"{text!r} is no list of layers; write it like 0-25 or 3,7-9")
        layers |= set(range(first, last + 1))
    return layers


def layer_ranges(layers: Iterable[int]) -> str:
    """ "3,7-9" of layers in ascending order."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], layer]
        else:
            runs.append([layer])
    return ",".join("-".join(map(str, run)) for run in runs)


def override_flags(overrides: Sequence[Override]) -> tuple[str, ...]:
    """The options of `vram-llm plan` and `serve` that dictate overrides, the shortest that say the same."""
    words: list[str] = []
    for override in overrides:
        first = first_layers_option(override)
        if first is not None and first[0] not in words:
            words += first
        elif words[-2:-1] == [FLAG]:
            words[-1] += f",{_text(override)}"
        else:
            words += [FLAG, _text(override)]
    return tuple(words)


def first_layers_option(override: Override) -> tuple[str, ...] | None:
    """llama.cpp's own option for `override`; None if there is none."""
    flag = _FIRST_LAYERS.get(override.part) if override.part else None
    if flag is None or override.device != HOST:
        return None
    if not override.layers:
        return ("--cpu-moe",) if override.part is LayerPart.EXPERTS else None
    n_layers = len(override.layers)
    return (flag, str(n_layers)) if override.layers == tuple(range(n_layers)) else None


def _text(override: Override) -> str:
    device = CPU if override.device == HOST else override.device
    if override.part is None:
        return f"{override.pattern}={device}"
    return f"{override.part}:{layer_ranges(override.layers) or ALL}={device}"
