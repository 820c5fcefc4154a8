"""A published speed next to a plan's own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSpeed:
    """A measurement that others published for a case like the plan's, and the plan's prediction for it."""

    id: str
    card: str
    n_cards: int
    backend: str  # of the measurement
    model: str
    quantization: str
    depth: int  # tokens before those that were timed
    tokens_per_s: float  # measured, of one stream
    predicted_tokens_per_s: float  # of the plan at that depth
    build: str  # of llama.cpp; empty: not published
    date: str
    source: str
