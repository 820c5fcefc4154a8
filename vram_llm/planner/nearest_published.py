"""The published measurement that is most like a plan.

A row is near if it has the same back end, as many cards of the same name, or of the same generation and about
the same bandwidth, and a model of the same kind and about the same size, at about the same depth. The closest
of near rows has the least sum of the logarithms of what differs, and fixed amounts for another card and for a
build of 2024.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from vram_llm.machine.card_generation import generation_of
from vram_llm.machine.published_speeds import PublishedRow
from vram_llm.machine.types import Device
from vram_llm.model.profile import ModelProfile
from vram_llm.units import MIB

_MOST = {"active": 1.25, "total": 1.35, "bandwidth": 1.12, "depth": 2.0}  # ratios of near rows
_SHALLOW = 2048  # tokens of depth that hardly differ
_OTHER_CARD = 0.3
_OLD_BUILD = 0.2  # in favour of builds since 2025


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCase:
    """A plan as published speeds describe theirs: one stream, equal cards that hold the whole model."""

    card: str  # its name in the catalog
    device: Device  # one of the cards
    n_cards: int
    kind: str  # of the model
    total_bytes: int
    active_bytes: int  # read for a token
    depth: int


def model_kind(profile: ModelProfile) -> str:
    """The kind of a model, by what its layers hold: "dense", "moe", "hybrid" or "hybrid moe"."""
    words = [] if profile.can_rewind else ["hybrid"]
    return " ".join([*words, *(["moe"] if profile.n_expert else [])]) or "dense"


def nearest_published(case: PublishedCase, rows: Iterable[PublishedRow]) -> PublishedRow | None:
    """The nearest of `rows`; None if none is near."""
    distances = [(distance, row) for row in rows if (distance := _distance(case, row)) is not None]
    return min(distances, key=lambda found: found[0])[1] if distances else None


def _distance(case: PublishedCase, row: PublishedRow) -> float | None:
    """The distance of a row; None if it is not near."""
    kinds = {str(case.device.kind), str(case.device.other_kind or case.device.kind)}
    if (row.n_cards, row.kind) != (case.n_cards, case.kind) or row.backend not in kinds:
        return None
    bandwidth = case.device.bandwidth_bytes_per_s
    if bandwidth is None:
        return None
    is_same = row.card == case.card
    generation = generation_of(case.device)
    if not is_same and (generation is None or row.generation != generation):
        return None
    apart = {
        "active": _apart(row.active_mib * MIB, case.active_bytes),
        "total": _apart(row.total_mib * MIB, case.total_bytes),
        "bandwidth": _apart(row.bandwidth_gb_s * 1e9, bandwidth.value),
        "depth": _apart(row.depth + row.n_generated / 2 + _SHALLOW, case.depth + _SHALLOW),
    }
    if any(apart[name] > math.log(most) for name, most in _MOST.items()):
        return None
    old = _OLD_BUILD if row.date < "2025" else 0.0
    return sum(apart.values()) + (0.0 if is_same else _OTHER_CARD) + old


def _apart(one: float, other: float) -> float:
    return abs(math.log(one / other))
