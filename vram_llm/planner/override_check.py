"""Overrides that a user dictates, checked against a model and a machine, and in a normal form.

llama.cpp reads patterns with std::regex (ECMAScript), plans with Python's `re`. A pattern that the two may
read differently is refused.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from vram_llm.errors import BadPlan
from vram_llm.machine.types import Machine
from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart, layer_of
from vram_llm.planner.override_text import CPU, layer_ranges, override_flags
from vram_llm.planner.overrides import Override, overrides_of
from vram_llm.planner.types import HOST

_SAME_ESCAPES = frozenset("dDwWsSbBtnrfv123456789")  # of letters and digits
_READ_DIFFERENTLY = (
    (re.compile(r"\(\?<[=!]"), "a look-behind"),
    (re.compile(r"\(\?(?:P<|P=|P>|<)"), "a named group"),
    (re.compile(r"\(\?#"), "a comment"),
    (re.compile(r"\(\?>|[*+?}]\+"), "a group or quantifier that never gives back"),
    (re.compile(r"\(\?\("), "a conditional group"),
    (re.compile(r"\(\?[^:=!]"), "inline flags"),
    (re.compile(r"\[\^?\]"), "a set that starts with ]"),
    (re.compile(r"\[[^\]]*\["), "a [ inside a set"),
    (re.compile(r"\{(?!\d+\})"), "a { that starts no quantifier"),
    (re.compile(r"[,=]"), "a comma or =, which end a pattern in llama.cpp"),
    (re.compile(r"[^\x20-\x7e]"), "a character other than printable ASCII"),
)
_EXPERTS = ("routed experts", "--n-cpu-ffn moves dense feed-forward weights")
_DENSE = ("dense feed-forward weights", "--n-cpu-moe moves routed experts")
_PARTS = {
    LayerPart.EXPERTS: _EXPERTS,
    LayerPart.EXPERTS_UP: _EXPERTS,
    LayerPart.EXPERTS_DOWN: _EXPERTS,
    LayerPart.FFN: _DENSE,
    LayerPart.FFN_DOWN: _DENSE,
}
"""How a part is called, and what to use in a model without it."""


def checked_overrides(
    profile: ModelProfile, machine: Machine, overrides: Sequence[Override]
) -> tuple[Override, ...]:
    """The overrides with known devices, each with the layers whose weights it decides.

    Those that decide whole parts of layers come first, one for each part and device; then the others as the
    user wrote them. An override that decides no tensor, because earlier ones decide all that it matches, is
    left out; so is a pattern that matches none, if another one does (`unmatched_notes`). Raises BadPlan.
    """
    found = [replace(_clipped(profile, each), device=_device(each, machine)) for each in overrides]
    for override in found:
        if (fault := pattern_fault(override.pattern)) is not None:
            raise BadPlan(f"the override pattern {override.pattern!r} {fault}")
    decided = _decided(profile, found)
    parts: dict[tuple[LayerPart, str], set[int]] = defaultdict(set)
    others: list[Override] = []
    for override, names in zip(found, decided, strict=True):
        by_layer = _parts_by_layer(profile, names)
        if by_layer is None:
            layers = {place[0] for name in names if (place := layer_of(name)) is not None}
            others.append(replace(override, part=None, layers=tuple(sorted(layers))))
            continue
        for layer, part in by_layer.items():
            parts[part, override.device].add(layer)
    order = (HOST, *(device.id for device in machine.devices))
    for device in order:
        up, down = parts[LayerPart.EXPERTS_UP, device], parts[LayerPart.EXPERTS_DOWN, device]
        both = up & down
        parts[LayerPart.EXPERTS, device] |= both
        up -= both
        down -= both
    return (*overrides_of(parts, order), *others)


def unmatched_notes(profile: ModelProfile, overrides: Sequence[Override]) -> tuple[str, ...]:
    """A note on the patterns that match no tensor of the model, as llama.cpp ignores them."""
    names = tuple(_tensor_names(profile))
    unmatched = [each.pattern for each in overrides if each.part is None and not _matched(each, names)]
    return (f"the model has no tensors for {', '.join(unmatched)}",) if unmatched else ()


def _clipped(profile: ModelProfile, override: Override) -> Override:
    """An override for the first layers, for no more layers than there are: as llama.cpp reads --n-cpu-moe."""
    layers = override.layers
    if override.part is None or override.device != HOST or layers != tuple(range(len(layers))):
        return override
    return Override.of(override.part, range(min(len(layers), profile.n_layers)), HOST) if layers else override


def _matched(override: Override, names: Iterable[str]) -> frozenset[str]:
    matches = re.compile(override.pattern).search
    return frozenset(name for name in names if matches(name))


def _parts_by_layer(profile: ModelProfile, names: frozenset[str]) -> dict[int, LayerPart] | None:
    """The part that `names` are in each layer; None if they are not whole parts of layers."""
    by_layer: dict[int, set[str]] = defaultdict(set)
    for name in names:
        if (place := layer_of(name)) is None:
            return None
        by_layer[place[0]].add(name)
    parts = {
        layer: next((part for part in LayerPart if found == _names_of(profile, part, layer)), None)
        for layer, found in by_layer.items()
    }
    known = {layer: part for layer, part in parts.items() if part is not None}
    return known if len(known) == len(parts) else None


def _device(override: Override, machine: Machine) -> str:
    """The id of the override's device in `machine`, or "host". Raises BadPlan."""
    ids = {device.id.casefold(): device.id for device in machine.devices} | {HOST: HOST}
    found = ids.get(override.device.casefold())
    if found is None:
        known = ", ".join((*(device.id for device in machine.devices), CPU))
        raise BadPlan(f"an override puts weights on {override.device}, and the devices are {known}")
    return found


def pattern_fault(pattern: str) -> str | None:
    """Why `pattern` cannot be used, as the end of a sentence; None: llama.cpp reads it as this program."""
    plain = re.sub(r"\\[^A-Za-z0-9]", "_", pattern)  # an escaped sign stands for itself
    reason = next((what for odd, what in _READ_DIFFERENTLY if odd.search(plain)), None)
    escapes = (found[1] for found in re.finditer(r"\\(.)", plain))
    if reason is None and (odd_escape := next((e for e in escapes if e not in _SAME_ESCAPES), None)):
        reason = f"\\{odd_escape}"
    if reason is not None:
        return (
            f"has {reason}, which llama.cpp's std::regex may read in another way than this program; write "
            "it without"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        return f"is no regular expression: {error}"
    return None


def _decided(profile: ModelProfile, overrides: Sequence[Override]) -> list[frozenset[str]]:
    """The names of the tensors whose device each override decides.

    Raises BadPlan if no pattern matches any, or if a part of layers has none.
    """
    left = set(_tensor_names(profile))
    everything = frozenset(left)
    decided = []
    for override in overrides:
        names = _matched(override, everything)
        is_idle = override.part is None and any(_matched(each, everything) for each in overrides)
        if (not names and not is_idle) or (override.layers and override.layers[-1] >= profile.n_layers):
            raise BadPlan(f"{_typed(override)} {_fault(profile, override)}")
        decided.append(names & left)
        left -= names
    return decided


def _fault(profile: ModelProfile, override: Override) -> str:
    """The fault of an override that matches no tensor, or that is for more layers than there are."""
    if override.part is None:
        example = next(name for name in _tensor_names(profile) if layer_of(name) is not None)
        return f"moves nothing: {profile.name} has no tensor of such a name; one is {example}"
    what, other = _PARTS[override.part]
    layers = layer_ranges(profile.layers_with(override.part))
    if not layers:
        return f"moves nothing: {profile.name} has no {what}; {other}"
    if override.layers[-1] >= profile.n_layers:
        return f"is for more layers than {profile.name} has: those with {what} are {layers}"
    return f"moves nothing: of {profile.name} only layers {layers} have {what}"


def _typed(override: Override) -> str:
    return " ".join(override_flags((override,)))


def _names_of(profile: ModelProfile, part: LayerPart, layer: int) -> set[str]:
    return {tensor.name for tensor in profile.layers[layer].tensors_of(part)}


def _layers(profile: ModelProfile) -> Iterator[Layer]:
    """The layers that llama.cpp loads."""
    return (layer for layer in profile.layers if not layer.is_draft)


def _tensor_names(profile: ModelProfile) -> Iterator[str]:
    outside = (
        profile.input_tensors, profile.output_tensors, profile.shared_tensors, profile.first_layer_tensors,
    )  # fmt: skip
    for tensors in (*outside, *(layer.tensors for layer in _layers(profile))):
        yield from (tensor.name for tensor in tensors)
