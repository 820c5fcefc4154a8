"""The record of a run of `tune`: all measurements, also of earlier runs, and the winner."""

import statistics
from typing import TYPE_CHECKING

import msgspec

from vram_llm.planner.tuning.scores import Gain
from vram_llm.workflows.tuning.candidates import TuneCandidate
from vram_llm.workflows.tuning.store import MeasuredRow, TunedRecord

if TYPE_CHECKING:
    from vram_llm.workflows.tuning.measurements import Measurements


def recorded(
    empty: TunedRecord,
    old: TunedRecord | None,
    measurements: "Measurements",
    won: TuneCandidate | None,
    gained: Gain | None,
) -> TunedRecord:
    """`empty` with all measurements and the winner, whose gain over the prediction's choice is `gained`.

    `old` is the record of earlier runs. Without a winner, its winner stays.
    """
    rows = {row.choice: row for row in (old.rows if old else ())}
    rows |= {
        each.choice: _row(each, measurements)
        for each in measurements.entered
        if each.measured and each.failed is None
    }
    record = msgspec.structs.replace(empty, rows=tuple(rows.values()))
    if won is None:
        return record if old is None else msgspec.structs.replace(old, rows=record.rows)
    return msgspec.structs.replace(
        record,
        choice=won.choice,
        tokens_per_s=measurements.shape.streams / won.step_s,
        gain=None if gained is None else gained.ratio,
        margin=None if gained is None else gained.margin,
    )


def _row(candidate: TuneCandidate, measurements: "Measurements") -> MeasuredRow:
    return MeasuredRow(
        name=candidate.name,
        choice=candidate.choice,
        request_s=candidate.median(measurements.shape),
        step_s=candidate.step_s,
        prompt_token_s=statistics.median(times.prompt_token_s for times in candidate.measured),
        n_measurements=len(candidate.measured),
        by_generation=measurements.by_generation,
    )
