"""The price of another context than the plan's."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPrice:
    """Another context than the plan's, and its cost against the plan at the same depth."""

    n_ctx: int
    kv_type: str | None = None  # of K and V; None: as planned
    cpu_layers: int = 0  # layers on the host with this context
    cpu_parts: int = 0  # layers on devices of which the host has experts or feed-forward weights
    cost: float  # share of the plan's tokens per second; below 0: it is faster
    tokens_per_s: float  # of one stream, predicted
    is_longest: bool = False  # a longer context needs more layers on the host
    method: str = "analytic"  # the meter by which it fits
