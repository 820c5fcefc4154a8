"""The progress of a run of `tune`, and its result."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRow:
    """A candidate: its figures are medians of its measurements; None before the first, or if it failed.

    Rates are of all expected streams together.
    """

    name: str
    is_predictions_choice: bool = False
    is_winner: bool = False
    expected_tokens_per_s: float | None = None
    tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    request_s: float | None = None  # of a typical request: the weighed figure
    ratio: float | None = None  # of the choice's request time to its own, less 1; in the same passes
    noise: float | None = None  # spread of its measurements as a share, half of the range
    n_measurements: int = 0
    accepted: float | None = None  # of the tokens that a draft model or head drafted, as a share
    failed: str | None = None  # why
    is_known: bool = False  # measured in an earlier run alone


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneProgress:
    """Where a run is. `measured` is the row of the measurement that has just ended."""

    phase: str  # "loading", "round 1 of 3", "pairs"
    rows: tuple[TuneRow, ...]  # the fastest first
    left_s: float
    measured: TuneRow | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneResult:
    """The result of `tune`. The gain is over the prediction's choice, measured in pairs.

    `gain` of None: the choice stands, since no candidate is faster by more than the noise, or nothing was
    compared. `best_rival_gain` says by how much the best other candidate differs.
    """

    model: str
    depth: int  # tokens behind each stream in decode steps
    streams: int
    prompt_tokens: int  # of the measured prompts
    minutes: float  # that the run took
    rows: tuple[TuneRow, ...]  # the fastest first
    winner: str | None  # None: nothing could be measured, or the run was interrupted before the pairs
    tokens_per_s: float | None
    gain: float | None
    margin: float | None
    best_rival_gain: float | None
    best_rival_margin: float | None
    n_pairs: int
    kept: str | None  # the sentence that `plan` and `serve` print from now on; None: they use no plan of it
    notes: tuple[str, ...]
    is_interrupted: bool = False
    is_stored: bool = True  # False: nothing was measured, or there is no room for it
    by_generation: bool = False  # text was measured, with drafts if a plan has them; else decode steps
    had_choice: bool = True  # False: no other plan fits, and nothing was measured
