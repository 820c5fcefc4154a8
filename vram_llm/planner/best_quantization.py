"""Which of a model's quantisations to take, by a rule that is stated and explained.

Take the largest of 4 to 8 bits that is wholly on the cards. If there is none, take one of 4 to 8 bits with
experts or layers on the host: the largest that is at most a tenth slower than the fastest. If that one is
slower than people read (5 tokens per second), take the largest of fewer bits that is not slower or is wholly
on the cards. More than 8 bits cost speed for no measurable gain: they are taken if nothing else is there.

The bits of a quantisation are those of the type that holds most of its weights.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod

from vram_llm.machine.types import Source
from vram_llm.model.profile import ModelProfile
from vram_llm.model.quants import GgmlType
from vram_llm.planner.report.figures import rate
from vram_llm.units import format_bytes

LEAST_BITS, MOST_BITS = 4.0, 9.0  # bits of a weight with its scales: 4.25 (IQ4_XS) to 8.5 (Q8_0)
READING_TOKENS_PER_S = 5.0
_NEAR = 0.9  # of the fastest's speed
_SAME_SPEED = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """A model file, or all shards of one, on a machine. A field is null if it is unknown.

    If the file cannot be read or planned, `reason` gives the reason and the fields of the plan are null.
    """

    name: str  # as commands take it
    label: str  # the part of the name that tells it from the others
    is_on_disk: bool
    bytes: int | None = None  # of all its files
    model: str | None = None
    quantization: str | None = None
    bits_per_weight: float | None = None  # of the type that holds most weights, scales included
    method: str | None = None  # the meter that says whether it fits
    fits: bool | None = None
    is_on_cards: bool | None = None  # everything except the input embedding
    short_bytes: int | None = None  # missing on all devices and the host together; 0 if it fits
    n_layers: int | None = None
    cpu_layers: int | None = None
    cpu_expert_layers: int | None = None  # layers whose experts alone are on the host
    cpu_ffn_layers: int | None = None  # layers with feed-forward matrices alone on the host
    n_ctx: int | None = None  # the longest context with no more on the host
    tokens_per_s: float | None = None  # of one stream
    basis: Source | None = None  # of `tokens_per_s`
    is_best: bool = False  # of the quantisations of its model
    reason: str | None = None

    @property
    def has_few_bits(self) -> bool:
        """Whether it has fewer than 4 bits."""
        return self.bits_per_weight is not None and self.bits_per_weight < LEAST_BITS

    @property
    def has_many_bits(self) -> bool:
        """Whether it has more than 8 bits."""
        return self.bits_per_weight is not None and self.bits_per_weight > MOST_BITS


def best_quantization(rows: Iterable[Quantization]) -> Quantization | None:
    """The one to take of a model's quantisations; None if none fits."""
    fitting = [row for row in rows if row.fits]
    few, many = [row for row in fitting if row.has_few_bits], [row for row in fitting if row.has_many_bits]
    usual = [row for row in fitting if not row.has_few_bits and not row.has_many_bits]
    if on_cards := [row for row in usual if row.is_on_cards]:
        return max(on_cards, key=_size)
    if on_cards := [row for row in many if row.is_on_cards]:
        return min(on_cards, key=_size)
    spread = _largest_of_the_fast(usual)
    readable = [row for row in few if row.is_on_cards or not _is_slow(row)]
    if spread is not None and (not readable or not _is_slow(spread)):
        return spread
    if readable:
        return max(readable, key=_size)
    return min(many, key=_size, default=None) or _largest_of_the_fast(few)


def why_best(best: Quantization, rows: Sequence[Quantization]) -> str:
    """One sentence: why `best` is the best of a model's quantisations, and what the next sizes cost."""
    smaller = max((row for row in rows if _size(row) < _size(best)), key=_size, default=None)
    larger = min((row for row in rows if _size(row) > _size(best)), key=_size, default=None)
    next_sizes = [
        _compared(row, best) for row in (larger, smaller) if row is not None and row.fits is not None
    ]
    return "; ".join([f"It is {_why(best, rows)}", *next_sizes]) + "."


def on_cpu(row: Quantization) -> str:
    """The parts of a quantisation on the host: "12 of 80 layers", "experts of 20 layers"; "" if nothing."""
    parts = []
    if row.cpu_layers:
        is_all = row.cpu_layers == row.n_layers
        parts.append("all layers" if is_all else f"{row.cpu_layers} of {row.n_layers} layers")
    elif not row.is_on_cards and not row.cpu_expert_layers and not row.cpu_ffn_layers:
        parts.append("the output")
    for what, n_layers in (("experts", row.cpu_expert_layers), ("FFN", row.cpu_ffn_layers)):
        if n_layers:
            parts.append(f"{what} of {n_layers} layers")
    return " and ".join(parts) if row.fits and not row.is_on_cards else ""


def _why(best: Quantization, rows: Sequence[Quantization]) -> str:
    if not best.has_few_bits and not best.has_many_bits:
        if best.is_on_cards:
            return "the largest of 4 to 8 bits that is wholly on the cards"
        return (
            f"the largest that is at most {1 - _NEAR:.0%} slower than the fastest of 4 to 8 bits, none of "
            "which is wholly on the cards"
        )
    if best.has_many_bits:
        return "the smallest, and none of 4 to 8 bits fits"
    usual = _largest_of_the_fast([row for row in rows if row.fits and not row.has_few_bits])
    if usual is None or usual.tokens_per_s is None:
        return "the largest that fits well, and none of 4 bits or more fits"
    return (
        "the largest that reaches reading speed: of 4 bits or more "
        f"{usual.label} makes {rate(usual.tokens_per_s)} tok/s"
    )


def _compared(row: Quantization, best: Quantization) -> str:
    """ "Q8_0 is 62% slower with 12 of 80 layers on the CPU", "Q8_0 is 3.20 GiB short"."""
    if not row.fits:
        return f"{row.label} is {format_bytes(row.short_bytes or 0)} short"
    where = f" with {on_cpu(row)} on the CPU" if on_cpu(row) else ""
    if row.tokens_per_s is None or best.tokens_per_s is None:
        return f"{row.label} fits{where}"
    faster = row.tokens_per_s / best.tokens_per_s
    if abs(faster - 1) < _SAME_SPEED:
        return f"{row.label} is as fast{where}"
    if faster > 1:
        times = f"{faster:.1f} times as fast" if faster >= 2 else f"{faster - 1:.0%} faster"
        return f"{row.label} is {times}{where}"
    return f"{row.label} is {1 - faster:.0%} slower{where}"


def _largest_of_the_fast(rows: Sequence[Quantization]) -> Quantization | None:
    """The largest that is at most a tenth slower than the fastest; None without rows."""
    fastest = max((row.tokens_per_s or 0.0 for row in rows), default=0.0)
    return max((row for row in rows if (row.tokens_per_s or 0.0) >= _NEAR * fastest), key=_size, default=None)


def _is_slow(row: Quantization) -> bool:
    return row.tokens_per_s is not None and row.tokens_per_s < READING_TOKENS_PER_S


def _size(row: Quantization) -> int:
    return row.bytes or 0


def bits_per_weight(profile: ModelProfile) -> float:
    """Bits of a weight, scales included, in the type that holds most of a model's weights."""
    outside = (profile.input_tensors, profile.first_layer_tensors, profile.output_tensors)
    elements: dict[GgmlType, int] = {}
    for tensor in chain(*outside, *(layer.tensors for layer in profile.layers)):
        elements[tensor.type] = elements.get(tensor.type, 0) + prod(tensor.shape)
    most = max(elements, key=elements.__getitem__)
    return 8 * most.block_bytes / most.block
