"""Measured speed of a plan, with its prediction."""

from dataclasses import dataclass

from vram_llm.machine.types import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSpeed:
    """One test as in llama-bench: tokens per second of every round, and the prediction."""

    test: str  # "pp512", "tg128", "tg128 x8"
    rounds_tokens_per_s: tuple[float, ...]
    tokens_per_s: float  # their median
    expected_tokens_per_s: float | None
    basis: Source | None  # of the prediction

    @property
    def off(self) -> float | None:
        """Relative error of the prediction: predicted / measured - 1."""
        if self.expected_tokens_per_s is None:
            return None
        return self.expected_tokens_per_s / self.tokens_per_s - 1
