"""How the time of `tune` is spent: rounds of successive halving, then pairs with the prediction's choice.

Round after round the better half is measured for longer (Karnin, Koren, Somekh: Almost Optimal Exploration in
Multi-Armed Bandits, 2013): each round gets the same time, which fewer candidates share. A candidate is loaded
anew for each measurement, since the place of a model in memory changes its speed for as long as it is loaded.
"""

import math
from dataclasses import dataclass

MINUTES = 5.0
FINAL_SHARE = 0.35  # of the time, for the pairs
LEAST_MEASURING_S = 0.8  # of measuring, below which noise decides
MOST_MEASURING_S = 6.0  # beyond which another load says more than a longer look
MOST_CANDIDATES = 16
LEAST_PAIRS, USUAL_PAIRS = 3, 5
MOST_ANSWER, LEAST_ANSWER, MOST_TEXTS = 64, 16, 12  # tokens of an answer that is measured, and answers
_FIRST_SHARE = 0.5  # of the rounds' time that the first round may take at most


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringTimes:
    """A round: each candidate is measured `n_measurements` times, for `seconds` of measuring each."""

    n_measurements: int
    seconds: float


def n_candidates(left_s: float, load_cost_s: float) -> int:
    """How many candidates the first round can measure, the prediction's choice among them; at least 2.

    `load_cost_s` is what a measurement costs in addition: load, warm-up and filling the context.
    """
    rounds_s = left_s * (1 - FINAL_SHARE) * _FIRST_SHARE
    return max(min(int(rounds_s / (load_cost_s + LEAST_MEASURING_S)), MOST_CANDIDATES), 2)


def n_rounds(n_rivals: int) -> int:
    """Rounds until one rival of the prediction's choice is left."""
    return max(math.ceil(math.log2(n_rivals)), 1) if n_rivals else 0


def survivors(n_rivals: int) -> int:
    """How many rivals a round leaves: the better half."""
    return max(n_rivals // 2, 1)


def round_times(left_s: float, n_entrants: int, n_rounds_left: int, load_cost_s: float) -> MeasuringTimes:
    """The measurements of a round that shares `left_s` with the rounds after it and with the pairs."""
    share_s = left_s * (1 - FINAL_SHARE) / max(n_rounds_left, 1) / max(n_entrants, 1)
    n_measurements = max(int(share_s / (load_cost_s + MOST_MEASURING_S)), 1)
    seconds = share_s / n_measurements - load_cost_s
    return MeasuringTimes(
        n_measurements=n_measurements, seconds=min(max(seconds, LEAST_MEASURING_S), MOST_MEASURING_S)
    )


def pair_times(left_s: float, load_cost_s: float) -> MeasuringTimes:
    """The pairs: measurements of the prediction's choice and of its best rival, in turns."""
    n_pairs = int(left_s / 2 / (load_cost_s + MOST_MEASURING_S))
    n_pairs = max(n_pairs, min(USUAL_PAIRS, int(left_s / 2 / (load_cost_s + LEAST_MEASURING_S))), LEAST_PAIRS)
    seconds = left_s / 2 / n_pairs - load_cost_s
    return MeasuringTimes(
        n_measurements=n_pairs, seconds=min(max(seconds, LEAST_MEASURING_S), MOST_MEASURING_S)
    )


def answer_lengths(n_tokens: float | None) -> tuple[int, int]:
    """Answers in a measurement with time for `n_tokens`, and the tokens of each; None: it is the first."""
    n_all = LEAST_ANSWER if n_tokens is None else n_tokens
    n_texts = min(max(math.ceil(n_all / MOST_ANSWER), 1), MOST_TEXTS)
    return n_texts, min(max(int(n_all / n_texts), LEAST_ANSWER), MOST_ANSWER)
