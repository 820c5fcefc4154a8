"""What decode steps take, beside what the plan expects of them."""

from vram_llm.planner.types import SpeedEstimate

TOKENS = 100
_OFF = 0.25  # a share by which measured and expected may differ before calibrating is advised


class Expectation:
    """Counts the first hundred tokens of pure decode steps, and then says how they compare, once."""

    def __init__(self, expected: SpeedEstimate | None) -> None:
        self._expected = expected
        self._tokens = 0
        self._seconds = 0.0
        self._expected_s = 0.0

    def after(self, rows: int, tokens: int, seconds: float) -> str | None:
        """Take in a step of `rows` batch rows that gave `tokens` tokens; the sentence, when it is time.

        Steps with prompts in them are left out: they have more rows than tokens.
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
        said = _sentence(self._expected, self._tokens, self._seconds, self._expected_s)
        self._expected = None
        return said


def _step_s(expected: SpeedEstimate, rows: int) -> float | None:
    """A step of `rows` streams: each more than one costs the same."""
    if rows == 1:
        return expected.step_s
    if expected.streams < 2 or expected.streams_step_s is None:
        return None
    more = (expected.streams_step_s - expected.step_s) / (expected.streams - 1)
    return expected.step_s + (rows - 1) * more


def _sentence(expected: SpeedEstimate, tokens: int, seconds: float, expected_s: float) -> str:
    off = expected_s / seconds - 1
    said = (
        f"the first {tokens} tokens: {tokens / seconds:,.1f} tok/s measured, {tokens / expected_s:,.1f} "
        f"expected ({expected.basis}), {abs(off):.0%} {'faster' if off >= 0 else 'slower'} than expected"
    )
    return f"{said}: `vram-llm calibrate` measures these devices" if abs(off) > _OFF else said
