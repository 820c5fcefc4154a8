"""What a plan did, beside what was expected of it."""

from dataclasses import dataclass

from vram_llm.machine.types import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSpeed:
    """One test of llama-bench's kind: tokens a second in every round, and what was expected."""

    test: str  # "pp512", "tg128", "tg128 x8"
    rounds_tokens_per_s: tuple[float, ...]
    tokens_per_s: float  # their median
    expected_tokens_per_s: float | None
    basis: Source | None  # of what was expected

    @property
    def off(self) -> float | None:
        """How far what was expected is from what was measured, as a share of it."""
        if self.expected_tokens_per_s is None:
            return None
        return self.expected_tokens_per_s / self.tokens_per_s - 1
