"""Compares the time of decode steps with the plan's expectation."""

from vram_llm.planner.types import SpeedEstimate

TOKENS = 100
_MAX_DIFFERENCE = 0.25  # between measured and expected, before the sentence advises calibration


class SpeedCheck:
    """Counts the first hundred tokens of pure decode steps, and then reports the comparison, once."""

    def __init__(self, expected: SpeedEstimate | None) -> None:
        self._expected = expected
        self._tokens = 0
        self._seconds = 0.0
        self._expected_s = 0.0

    @property
    def is_over(self) -> bool:
        """True if `observe` has nothing to report any more."""
        return self._expected is None

    def observe(self, rows: int, tokens: int, seconds: float) -> str | None:
        """Count a step of `rows` batch rows that gave `tokens` tokens; the sentence once there are enough.

        Steps with prompts are left out: they have more rows than tokens.
        """
        if self._expected is None or not 0 < rows == tokens:
            return None
        step_s = _step_s(self._expected, rows)
        if step_s is None:
            return None
        self._tokens += tokens
        self._seconds += seconds
        self._expected_s += step_s
        if self._tokens < TOKENS:
            return None
        sentence = _sentence(self._expected, self._tokens, self._seconds, self._expected_s)
        self._expected = None
        return sentence


def _step_s(expected: SpeedEstimate, rows: int) -> float | None:
    """Expected seconds of a step of `rows` streams: each stream after the first costs the same."""
    if rows == 1:
        return expected.step_s
    if expected.streams < 2 or expected.streams_step_s is None:
        return None
    more = (expected.streams_step_s - expected.step_s) / (expected.streams - 1)
    return expected.step_s + (rows - 1) * more


def _sentence(expected: SpeedEstimate, tokens: int, seconds: float, expected_s: float) -> str:
    difference = expected_s / seconds - 1
    direction = "faster" if difference >= 0 else "slower"
    sentence = (
        f"the first {tokens} tokens: {tokens / seconds:,.1f} tok/s measured, {tokens / expected_s:,.1f} "
        f"expected ({expected.basis}), {abs(difference):.0%} {direction} than expected"
    )
    advice = ": `vram-llm calibrate` measures these devices"
    return sentence + advice if abs(difference) > _MAX_DIFFERENCE else sentence
