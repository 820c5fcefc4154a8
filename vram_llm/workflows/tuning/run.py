"""Measure the best few plans of a model on the real devices, and keep the fastest."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vram_llm.errors import BadPlan, EngineDied, VramLLMError, WorkerUnreachable
from vram_llm.planner.tuning.choice import TunedChoice, choice_of
from vram_llm.planner.tuning.device_factors import DeviceFactors, corrected
from vram_llm.planner.tuning.facts import TuneFacts
from vram_llm.planner.tuning.halving import (
    FINAL_SHARE,
    MINUTES,
    n_candidates,
    n_rounds,
    round_times,
    survivors,
)
from vram_llm.planner.tuning.merged import merged
from vram_llm.planner.tuning.proposals import proposals, split_name
from vram_llm.planner.tuning.scores import SLOWEST_DECODE, Gain, gain, ranked
from vram_llm.planner.types import Objective
from vram_llm.workflows import planning
from vram_llm.workflows.saved_plans import check_loadable
from vram_llm.workflows.tuning import store
from vram_llm.workflows.tuning.candidates import CandidatePlanner, TuneCandidate
from vram_llm.workflows.tuning.kept import find_record, sentence
from vram_llm.workflows.tuning.learned_speeds import measured_factors, prompt_factor, store_speeds
from vram_llm.workflows.tuning.measurements import Measurements
from vram_llm.workflows.tuning.one_at_a_time import one_at_a_time
from vram_llm.workflows.tuning.other_plans import OtherPlans, has_drafts, settled_draft
from vram_llm.workflows.tuning.recorded import recorded
from vram_llm.workflows.tuning.results import TuneProgress, TuneResult, TuneRow

if TYPE_CHECKING:
    from vram_llm.llama.dryrun.client import DryRun
    from vram_llm.machine.types import Machine
    from vram_llm.planner.types import Plan, Workload

LLAMA_SERVER = "llama-server"
_KNOWN_SLOW = 1.3  # times the best one of earlier runs; slower ones are not measured again
_REFINED_ROUNDS = 2  # the first rounds, whose measurements correct the devices' speeds
_MOST_PROBED = 3  # candidates of which one has to load if the choice does not
_MOST_REFINED = 3  # candidates that such a round adds
_MOST_MERGED = 2  # of them, those with the changes of two
_SERVER_SHARE = 0.1  # of the time, for llama-server
_LEAST_SERVER_S = 10.0


def tune(
    model: str,
    machine: "Machine",
    workload: "Workload | None" = None,
    *,
    minutes: float = MINUTES,
    kv_types: Sequence[str] = (),
    compares_llama_server: bool = False,
    on_progress: Callable[[TuneProgress], None] = lambda _: None,
) -> TuneResult:
    """Load the best few plans of `model` one after the other, measure them, and keep the fastest.

    `plan` and `serve` then use it for the same model, machine and workload. `kv_types` are types of the KV
    cache that the plan may take besides the workload's. Measurements also correct the stored speeds of the
    devices. Ctrl+C ends the run early: the result says so, and what was learned is stored.

    Raises the errors of `plan`; BadPlan for a model of embeddings, for a plan that reads from the disk and
    for devices that are not here; NotBuilt if llama-server is to be compared and is not found; EngineDied if
    no candidate can be loaded; WorkerUnreachable if a worker ends meanwhile; TuneRunning if another run
    measures on this computer.
    """
    from vram_llm.planner.types import Workload
    from vram_llm.workflows.tuning.llama_server import found_llama_server

    workload = dataclasses.replace(workload or Workload(), use_tuned=False)
    program = found_llama_server() if compares_llama_server else None
    order = _Order(model, machine, workload, 60 * minutes, tuple(kv_types), on_progress)
    with one_at_a_time(), planning.dry_run() as dry:
        on_progress(TuneProgress(phase="planning", rows=(), left_s=60 * minutes))
        plan = planning.plan(model, machine, workload, dry)
        _refuse(plan)
        began = time.monotonic()
        run = _Run(order, plan, dry)
        is_interrupted = False
        try:
            if not run.may_choose and program is None:
                return run.result(0.0, is_interrupted=False)
            run.measure(_SERVER_SHARE * 60 * minutes if program else 0.0)
            if program is not None:
                run.compare(program)
        except KeyboardInterrupt:
            is_interrupted = True
        except WorkerUnreachable as error:
            raise run.ended_by(error) from None
        return run.result((time.monotonic() - began) / 60, is_interrupted=is_interrupted)


def _refuse(plan: "Plan") -> None:
    """Raises BadPlan for a plan that is not measured."""
    check_loadable(plan)
    if plan.context.pooling is not None:
        raise BadPlan(f"{plan.model.name} makes embeddings, and tune measures the generation of text")
    if plan.disk_reads is not None:
        raise BadPlan(
            f"{plan.model.name} would read weights from the disk for each token, and tune measures plans in "
            "memory; leave --from-disk out, and take a smaller quantisation"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Order:
    """The model, machine and workload to tune for, and the time."""

    model: str
    machine: "Machine"
    workload: "Workload"
    seconds: float
    kv_types: tuple[str, ...]
    on_progress: Callable[[TuneProgress], None]


class _Run:
    """One run: its candidates, its measurements, and what it concludes."""

    def __init__(self, order: _Order, plan: "Plan", dry: "DryRun") -> None:
        from vram_llm.llama.measure.calibrate import thread_candidates

        model, machine, wish = order.model, order.machine, order.workload
        workload = settled_draft(wish, plan)
        self._model, self._machine, self._workload, self._dry = model, machine, workload, dry
        files = planning.PlannedFiles.read(model, workload)
        others = OtherPlans.of(model, machine, wish, plan, dry)
        self._facts = TuneFacts(
            profile=files.profile,
            machine=machine,
            workload=workload,
            plan=plan,
            thread_counts=thread_candidates(machine.host),
            kv_types=order.kv_types,
            by_tensors=others.by_tensors,
            other_draft=others.other_draft,
            other_draft_name=others.other_draft_name,
        )
        shape = self._facts.shape
        assert plan.speed is not None
        self._planner = CandidatePlanner(model, self._facts, files.model, dry)
        choice = self._planner.first(plan)
        self._measurements = Measurements(
            shape=shape,
            choice=choice,
            until=time.monotonic() + order.seconds,
            depth=plan.speed.depth,
            prompt_tokens=shape.prompt_tokens,
            on_progress=order.on_progress,
            seconds_of_run=order.seconds,
            by_generation=has_drafts(plan) or others.other_draft is not None,
        )
        self._record = store.new_record(files.identities, machine, wish, plan.context.n_ctx, plan.model.name)
        self._old = find_record(store.read()[0].values(), self._record)
        self._rival: TuneCandidate | None = None
        self._gain: Gain | None = None
        self._ended = False
        self._server: TuneRow | None = None
        self._waiting = self._proposed()
        self._rivals = self._planned(1)

    @property
    def may_choose(self) -> bool:
        """Whether any other plan fits."""
        return bool(self._rivals)

    # -- measuring -------------------------------------------------------------------------------

    def measure(self, reserved_s: float) -> None:
        """Probe, rounds of halving, pairs. `reserved_s` is left at the end."""
        measurements = self._measurements
        measurements.until -= reserved_s
        rivals = self._rivals
        if not measurements.probe(measurements.choice):
            rivals += self._planned(_MOST_PROBED - len(rivals))
        if measurements.choice.failed is not None and not any(measurements.probe(each) for each in rivals):
            raise EngineDied(
                f"no plan of {self._facts.plan.model.name} can be loaded: {measurements.choice.failed}"
            )
        most = n_candidates(measurements.left_s, measurements.cost_s) - 1
        rivals += self._planned(most - len(rivals))
        n_all, number = n_rounds(len(rivals)), 0
        while rivals and number < n_all:
            left_s = measurements.left_s
            times = round_times(left_s, len(rivals) + 1, n_all - number, measurements.cost_s)
            ends_in_s = left_s * (1 - FINAL_SHARE) / (n_all - number) if number + 1 < n_all else left_s * 0.6
            number += 1
            measurements.run_round(rivals, times, f"round {number} of {n_all}", ends_in_s)
            ranking = self._better(rivals)
            rivals = ranking[: survivors(len(rivals))]
            self._save()
            if number <= _REFINED_ROUNDS and (refined := self._refined(ranking)):
                rivals += refined
                n_all = max(n_all, number + n_rounds(len(rivals)))
        self._rival = next(iter(self._better(rivals)), None)
        if self._rival is not None and measurements.choice.failed is None:
            pairs = measurements.run_pairs(self._rival)
            self._gain = gain(pairs)
        measurements.until += reserved_s
        self._ended = True
        if self._gain is None and measurements.choice.failed is None:
            compared = any(each.measured for each in measurements.entered[1:])
            why = "there was no time, --minutes gives more" if compared else "no other plan fits or loads"
            measurements.notes.append(f"nothing was compared with the prediction's choice: {why}")

    def compare(self, program: str) -> None:
        """Measure llama-server with its own --fit on the same devices."""
        from vram_llm.workflows.tuning.llama_server import measured_row

        measurements = self._measurements
        measurements.on_progress(
            TuneProgress(phase=LLAMA_SERVER, rows=measurements.rows(), left_s=measurements.left_s)
        )
        plan, seconds = measurements.choice.plan, max(measurements.left_s, _LEAST_SERVER_S)
        row = measured_row(
            program, plan, measurements.shape, measurements.prompt_tokens, measurements.depth, seconds
        )
        if row.request_s is not None and measurements.choice.measured:
            row = dataclasses.replace(
                row, ratio=measurements.choice.median(measurements.shape) / row.request_s - 1
            )
        self._server = row

    def _proposed(self) -> list[tuple[str, TunedChoice]]:
        """Names and choices in the order in which they are planned: earlier runs' fastest come first.

        Of candidates that an earlier run measured, the measured time counts, and slow ones are left out.
        """
        old = self._old
        alike = self._measurements.by_generation
        rows = [] if old is None else [row for row in old.rows if row.by_generation == alike]
        known = {row.choice: row.request_s for row in rows}
        best_s = min(known.values(), default=0.0)
        named = [(row.name, row.choice) for row in sorted(rows, key=lambda row: row.request_s)[:2]]
        named += [
            (each.name, each.choice)
            for each in proposals(self._facts)
            if known.get(each.choice, 0.0) <= _KNOWN_SLOW * best_s
        ]
        return [(name, choice) for choice, name in {choice: name for name, choice in named}.items()]

    def _planned(self, most: int) -> list[TuneCandidate]:
        """The first `most` candidates that fit; planning ends when a fifth of the time is over."""
        found: list[TuneCandidate] = []
        stops_at = self._measurements.left_s * 0.8
        while self._waiting and len(found) < most and (not found or self._measurements.left_s > stops_at):
            candidate = self._planner.candidate(*self._waiting.pop(0))
            found += [] if candidate is None else [candidate]
        return found

    def _better(self, rivals: Sequence[TuneCandidate]) -> list[TuneCandidate]:
        """Measured rivals, the fastest first; those that decode much more slowly come last."""
        measured = [each for each in rivals if each.failed is None and each.relative]
        order = ranked({number: each.relative for number, each in enumerate(measured)})
        return sorted((measured[number] for number in order), key=self._decodes_slowly)

    def _decodes_slowly(self, rival: TuneCandidate) -> bool:
        """Whether a candidate decodes too slowly to win, however fast its prompts are."""
        choice = self._measurements.choice
        if not choice.measured or self._workload.objective is Objective.THROUGHPUT:
            return False
        return rival.step_s > choice.step_s / SLOWEST_DECODE

    def _refined(self, rivals: Sequence[TuneCandidate]) -> list[TuneCandidate]:
        """Candidates with the changes of two fast ones, and those that the measured speeds suggest."""
        if self._measurements.left_s < 8 * self._measurements.cost_s:
            return []
        found: list[TuneCandidate] = []
        for name, choice in (*self._merged(rivals), *self._suggested()):
            if len(found) < _MOST_REFINED and (candidate := self._planner.candidate(name, choice)):
                found.append(candidate)
        return found

    def _merged(self, rivals: Sequence[TuneCandidate]) -> list[tuple[str, TunedChoice]]:
        """The changes of the fastest rival together with those of the next ones."""
        own = self._measurements.choice.choice
        best, *others = rivals[: 1 + _MOST_MERGED] or [self._measurements.choice]
        pairs = [(other.name, merged(own, best.choice, other.choice)) for other in others]
        return [(f"{best.name}, {name}", choice) for name, choice in pairs if choice is not None]

    def _suggested(self) -> list[tuple[str, TunedChoice]]:
        """Choices of the planner with the speeds that the measurements show."""
        factors = self._factors()
        if factors is None or not factors.is_better:
            return []
        machine = corrected(self._machine, factors.factors)
        try:
            plan = planning.plan(self._model, machine, self._pinned(), self._dry, compares=False)
        except VramLLMError:
            return []
        facts = dataclasses.replace(self._facts, machine=machine, plan=plan)
        named = [(split_name(plan.placement), choice_of(plan.placement, plan.context))]
        return named + [(each.name, each.choice) for each in proposals(facts)[: 2 * _MOST_REFINED]]

    def _pinned(self) -> "Workload":
        return dataclasses.replace(self._workload, n_ctx=self._facts.plan.context.n_ctx, largest_ctx=False)

    def _factors(self) -> DeviceFactors | None:
        """How much slower the devices are than predicted; None if text was measured, and not steps."""
        if self._measurements.by_generation:
            return None
        return measured_factors(self._measurements.entered, self._measurements.shape.streams)

    # -- concluding ------------------------------------------------------------------------------

    def ended_by(self, error: WorkerUnreachable) -> WorkerUnreachable:
        """Store the measurements. Returns the error that ends the run, which says so."""
        if not self._save().is_stored:
            return error
        return WorkerUnreachable(f"{error}; the measurements are kept, and the next run starts from them")

    def result(self, minutes: float, *, is_interrupted: bool) -> TuneResult:
        """Store what was learned, and say what it is."""
        measurements, won = self._measurements, self._winner()
        stored = self._save(won)
        notes = [*measurements.notes, *stored.notes, *self._calibrated()]
        rows = (*measurements.rows(won), *([self._server] if self._server else []))
        rows = tuple(sorted(rows, key=lambda row: (row.failed is not None, row.request_s or 0.0)))
        is_rival = won is not None and won is self._rival
        tokens_per_s = None if won is None else measurements.shape.streams / won.step_s
        return TuneResult(
            model=self._facts.plan.model.name,
            depth=measurements.depth,
            streams=measurements.shape.streams,
            prompt_tokens=measurements.prompt_tokens,
            minutes=minutes,
            rows=rows,
            winner=None if won is None else won.name,
            tokens_per_s=tokens_per_s,
            gain=self._gain.ratio if is_rival and self._gain else None,
            margin=self._gain.margin if is_rival and self._gain else None,
            best_rival_gain=self._gain.ratio if self._gain else None,
            best_rival_margin=self._gain.margin if self._gain else None,
            n_pairs=self._gain.n_pairs if self._gain else 0,
            kept=sentence(self._recorded(won)) if won is not None and stored.is_stored else None,
            is_stored=stored.is_stored,
            by_generation=measurements.by_generation,
            had_choice=self.may_choose,
            notes=tuple(notes),
            is_interrupted=is_interrupted,
        )

    def _winner(self) -> TuneCandidate | None:
        """The rival if it is faster beyond the noise, else the choice; None before the pairs' end."""
        choice, rival = self._measurements.choice, self._rival
        if not self._ended:
            return None
        if choice.failed is not None:
            return rival if rival is not None and rival.failed is None and rival.measured else None
        if rival is None or self._gain is None:
            return None
        wins = self._gain.is_certain and rival.failed is None and not self._decodes_slowly(rival)
        return rival if wins else choice

    def _recorded(self, won: TuneCandidate | None) -> store.TunedRecord:
        gained = self._gain if won is not None and won is self._rival else None
        return recorded(self._record, self._old, self._measurements, won, gained)

    def _save(self, won: TuneCandidate | None = None) -> store.StoredPlan:
        record = self._recorded(won)
        return store.store(record) if record.rows else store.StoredPlan(False, ())

    def _calibrated(self) -> tuple[str, ...]:
        """Store the devices' speeds as the measurements show them. Returns sentences."""
        factors = self._factors()
        if factors is None or not factors.is_better:
            return ()
        entered = self._measurements.entered
        return store_speeds(self._machine, factors, prompt_factor(entered), self._facts.plan.model.name)
