"""The measurements of a run of `tune`: which candidate is loaded when, and for how long."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vram_llm.errors import NotBuilt, VramLLMError, WorkerUnreachable
from vram_llm.planner.tuning.halving import (
    LEAST_MEASURING_S,
    LEAST_PAIRS,
    MeasuringTimes,
    answer_lengths,
    pair_times,
)
from vram_llm.planner.tuning.scores import MeasuredTimes, RequestShape
from vram_llm.workflows.tuning.results import TuneProgress, TuneRow

if TYPE_CHECKING:
    from vram_llm.workflows.tuning.candidates import TuneCandidate

_PROBE_TOKENS = 64
_PROBE_S = 0.4
_FILL_SHARE = 0.01  # of the run's time, at most, for the prompt of a measurement and for filling its context
_LEAST_PROMPT, _LEAST_DEPTH = 32, 16
_CELLS_OF_STEPS = 80  # of each stream, behind its depth


@dataclass(slots=True)
class Measurements:
    """Loads and measures candidates until the time is over.

    `choice` is the prediction's choice. `until` is a time of time.monotonic(). With `by_generation` the model
    writes text, which shows what drafts are worth; else decode steps are measured.
    """

    shape: RequestShape
    choice: "TuneCandidate"
    until: float
    depth: int
    prompt_tokens: int
    on_progress: Callable[[TuneProgress], None]
    seconds_of_run: float
    by_generation: bool = False
    entered: "list[TuneCandidate]" = field(default_factory=list)  # everybody who was ever measured
    notes: list[str] = field(default_factory=list)
    _costs_s: list[float] = field(default_factory=list)
    _token_s: float | None = None  # of a token of each stream, in the first load
    _n_passes: int = 0

    @property
    def left_s(self) -> float:
        """Seconds until the run's end."""
        return self.until - time.monotonic()

    @property
    def cost_s(self) -> float:
        """The usual time of a measurement in addition to its seconds of decoding: the median."""
        return statistics.median(self._costs_s) if self._costs_s else 1.0

    def probe(self, candidate: "TuneCandidate") -> bool:
        """Load a candidate for the first time, and choose how deep and how long prompts are measured.

        The first load is slower than later ones, so its speed does not count. False if it fails.
        """
        n_ctx = candidate.plan.context.n_ctx
        tokens = min(_PROBE_TOKENS, self.prompt_tokens)
        found = self._load_and_measure(candidate, "loading", _PROBE_S, tokens, min(self.depth, _LEAST_DEPTH))
        if found is None:
            return False
        candidate.measured.clear()
        most_s = max(_FILL_SHARE * self.seconds_of_run, 0.5)
        rate = 1 / found.prompt_token_s
        room = n_ctx // self.shape.streams - _CELLS_OF_STEPS
        prompt = min(self.prompt_tokens, max(int(rate * most_s), _LEAST_PROMPT), max(n_ctx - 1, 1))
        depth = min(self.depth, max(int(rate * most_s / self.shape.streams), _LEAST_DEPTH), max(room, 1))
        if depth < self.depth:
            self.notes.append(
                f"decoding was measured behind {depth:,} tokens of each stream, not {self.depth:,}, which "
                "take too long to compute or have no room; --minutes gives more time"
            )
        self._costs_s = [self._costs_s[-1] + (prompt + depth * self.shape.streams) / rate]
        self._token_s = found.step_s
        self.prompt_tokens, self.depth = prompt, depth
        return True

    def run_round(
        self, rivals: "Sequence[TuneCandidate]", times: MeasuringTimes, phase: str, ends_in_s: float
    ) -> None:
        """Measure the choice and all rivals in turns; after the time, the choice and the first rival."""
        ends = time.monotonic() + ends_in_s
        entrants = [each for each in (self.choice, *rivals) if each.failed is None]
        for number in range(times.n_measurements):
            self._n_passes += 1
            taken: dict[int, float] = {}
            ordered = entrants if number % 2 == 0 else entrants[::-1]
            for candidate in ordered:
                is_late = time.monotonic() + self.cost_s + LEAST_MEASURING_S > ends
                if candidate.failed is not None or (is_late and candidate not in entrants[:2]):
                    continue
                found = self.measure(candidate, phase, times.seconds)
                if found is not None:
                    taken[id(candidate)] = self.shape.seconds(found)
            base = taken.get(id(self.choice)) or (min(taken.values()) if taken else 1.0)
            for candidate in entrants:
                if id(candidate) in taken:
                    candidate.relative.append(taken[id(candidate)] / base)

    def run_pairs(self, rival: "TuneCandidate") -> list[tuple[float, float]]:
        """Times of the choice and of its rival, one after the other, until the time is over."""
        times = pair_times(self.left_s, self.cost_s)
        pairs: list[tuple[float, float]] = []
        for number in range(times.n_measurements):
            is_late = len(pairs) >= LEAST_PAIRS and self.left_s < 2 * (self.cost_s + LEAST_MEASURING_S)
            if is_late or (len(pairs) >= 2 and self.left_s < 0):
                break
            self._n_passes += 1
            order = (self.choice, rival) if number % 2 == 0 else (rival, self.choice)
            found = {id(each): self.measure(each, "pairs", times.seconds) for each in order}
            first, second = found[id(self.choice)], found[id(rival)]
            if first is None or second is None:
                break
            pairs.append((self.shape.seconds(first), self.shape.seconds(second)))
            rival.relative.append(pairs[-1][1] / pairs[-1][0])
            self.choice.relative.append(1.0)
        return pairs

    def measure(self, candidate: "TuneCandidate", phase: str, seconds: float) -> MeasuredTimes | None:
        """Load and measure a candidate once; None if it fails, which its row then says."""
        return self._load_and_measure(candidate, phase, seconds, self.prompt_tokens, self.depth)

    def rows(self, winner: "TuneCandidate | None" = None) -> tuple[TuneRow, ...]:
        """All candidates that were measured, the fastest first, failures last."""
        rows = [
            each.row(self.shape, is_choice=each is self.choice, is_winner=each is winner)
            for each in self.entered
        ]
        return tuple(sorted(rows, key=lambda row: (row.failed is not None, -(row.ratio or 0.0))))

    def _load_and_measure(
        self, candidate: "TuneCandidate", phase: str, seconds: float, prompt_tokens: int, depth: int
    ) -> MeasuredTimes | None:
        if candidate not in self.entered:
            self.entered.append(candidate)
        self.on_progress(
            TuneProgress(phase=f"{phase}: {candidate.name}", rows=self.rows(), left_s=self.left_s)
        )
        began = time.monotonic()
        found: MeasuredTimes | None = None
        try:
            if self.by_generation:
                found = self._generation(candidate, seconds, prompt_tokens, depth)
            else:
                found = self._steps(candidate, seconds, prompt_tokens, depth)
        except (NotBuilt, WorkerUnreachable):  # no other candidate can do without
            raise
        except VramLLMError as error:
            candidate.failed = str(error)
        else:
            self._costs_s.append(max(time.monotonic() - began - seconds, 0.0))
            candidate.measured.append(found)
        row = candidate.row(self.shape, is_choice=candidate is self.choice)
        self.on_progress(TuneProgress(phase=phase, rows=self.rows(), left_s=self.left_s, measured=row))
        return found

    def _steps(
        self, candidate: "TuneCandidate", seconds: float, prompt_tokens: int, depth: int
    ) -> MeasuredTimes:
        """Decode steps, without sampling. Raises VramLLMError."""
        from vram_llm.llama.measure.measure_plan import measure_plan, prompt_token_seconds, step_seconds
        from vram_llm.llama.measure.measure_plan_wire import PlanMeasurementRequest

        request = PlanMeasurementRequest(
            plan=candidate.plan, prompt_tokens=prompt_tokens, depth=depth, streams=self.shape.streams,
            seconds=seconds,
        )  # fmt: skip
        result = measure_plan(request)
        return MeasuredTimes(step_s=step_seconds(result), prompt_token_s=prompt_token_seconds(result))

    def _generation(
        self, candidate: "TuneCandidate", seconds: float, prompt_tokens: int, depth: int
    ) -> MeasuredTimes:
        """Text that the model writes, as long for each candidate of a pass. Raises VramLLMError."""
        from vram_llm.engine.generation_speed import GenerationRequest, measure_generation

        n_texts, n_tokens = answer_lengths(None if self._token_s is None else seconds / self._token_s)
        request = GenerationRequest(
            plan=candidate.plan, prompt_tokens=prompt_tokens, depth=depth, streams=self.shape.streams,
            n_texts=n_texts, n_tokens=n_tokens, first_text=self._n_passes * n_texts,
        )  # fmt: skip
        result = measure_generation(request)
        candidate.n_drafted += result.n_drafted
        candidate.n_accepted += result.n_accepted
        prompt_token_s = result.prompt_s / max(result.prompt_tokens, 1)
        return MeasuredTimes(step_s=result.token_s, prompt_token_s=prompt_token_s)
