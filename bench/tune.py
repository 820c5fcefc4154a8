"""Tune a model over unequal workers, and compare the winner with every split measured by itself.

    python -m bench.tune [--show two|three|heads] [--minutes 4] [--loads 3] [--seconds 1.5]

RPC workers run on this computer, each on a core; slow ones wait after each graph (bench/slow_worker.py).
Nothing is calibrated. `tune` runs twice with a store of its own; the second run starts from what the first
learned. Then every split that fits is loaded and measured as often as --loads, in turns with the kept plan,
each time in a process of its own: medians.

two     one full-speed worker and one at 30 %, of which neither holds the whole model
three   workers at full speed, at 50 % and at 25 %, with so little memory that all are needed
heads   no workers: a model whose MTP head mostly agrees with it, and one whose head never does. `tune` should
        keep the first head, and leave the second out

Two cores are enough, and root is needed. Nothing else should run meanwhile.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.mtp import KINDS, SHAPE
from bench.rig import measure_on, slow_worker
from bench.uneven import FULL_CORE, SLOW_CORE, fitting
from tests.zoo.heads import HEADS, write_agreeing
from tests.zoo.loadable import with_vocabulary
from tools.random_model import write_llama
from vram_llm.llama.measure.measure_plan import measure_plan, step_seconds
from vram_llm.llama.measure.measure_plan_wire import PlanMeasurementRequest
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.planner.tensor_split import SplitChoice
from vram_llm.planner.tuning.proposals import split_name
from vram_llm.planner.types import FlashAttention, Plan, Workload
from vram_llm.workflows import detection, planning
from vram_llm.workflows.tuning.results import TuneResult
from vram_llm.workflows.tuning.run import tune

DEPTH = 16
# the micro-batch and the split mode are given: the splits alone are compared
WISH = Workload(
    n_ctx=512, parallel=1, reserve_bytes=0, expect_depth=DEPTH, n_gpu_layers=-1, n_batch=512, n_ubatch=512,
    split_mode=SplitChoice.LAYER,
)  # fmt: skip
# drafts alone are compared
HEAD_WISH = Workload(
    n_ctx=1024, parallel=1, reserve_bytes=0, expect_depth=64, n_gpu_layers=0, n_ubatch=512, n_threads=1,
    flash_attn=FlashAttention.ON,
)  # fmt: skip
_SHARPNESS = 7  # of the model's next token: as sharp at the temperature of `tune` as in bench.mtp


@dataclass(frozen=True, slots=True)
class TuneEffort:
    """Minutes of each run of `tune`; loads of every split, and seconds of each."""

    minutes: float
    loads: int
    seconds: float


@dataclass(slots=True)
class MeasuredPlan:
    """A plan, and the seconds of a decode step in each load."""

    name: str
    plan: Plan
    steps_s: list[float] = field(default_factory=list)

    @property
    def step_s(self) -> float:
        """The median."""
        return statistics.median(self.steps_s)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--show", choices=list(SHOWS), action="append")
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    args = parser.parse_args()
    measure_on(SLOW_CORE, niceness=0)
    for name in args.show or SHOWS:
        with tempfile.TemporaryDirectory() as folder:
            os.environ[DATA_DIR_VARIABLE] = folder
            print(f"--- {name}", flush=True)
            SHOWS[name](Path(folder), TuneEffort(args.minutes, args.loads, args.seconds))


def two(folder: Path, effort: TuneEffort) -> None:
    """One worker in full, one at 30 %."""
    with slow_worker(FULL_CORE, 1) as full, slow_worker(SLOW_CORE, 1 / 0.3) as slow:
        _show(_model(folder), [f"{full}@120MiB", f"{slow}@120MiB"], effort)


def three(folder: Path, effort: TuneEffort) -> None:
    """Three workers of which all are needed."""
    with (
        slow_worker(FULL_CORE, 1) as full,
        slow_worker(SLOW_CORE, 2) as half,
        slow_worker(SLOW_CORE, 4) as quarter,
    ):
        _show(_model(folder), [f"{full}@102MiB", f"{half}@90MiB", f"{quarter}@90MiB"], effort)


def heads(folder: Path, effort: TuneEffort) -> None:
    """Heads that draft well and in vain."""
    for kind in KINDS:
        model = with_vocabulary(HEADS["glm4_moe"](**SHAPE))
        path = write_agreeing(model, folder / f"{kind}.gguf", agrees=kind == "agrees", sharpness=_SHARPNESS)
        print(f"the head {kind}")
        _print_run(1, tune(str(path), detection.detect(), HEAD_WISH, minutes=effort.minutes))
        path.unlink()


SHOWS: dict[str, Callable[[Path, TuneEffort], None]] = {"two": two, "three": three, "heads": heads}


def _model(folder: Path) -> str:
    """A random llama of twelve layers. A layer takes milliseconds of a core, far above its overhead."""
    path = folder / "1024.gguf"
    return str(write_llama(path, n_embd=1024, n_ff=(2816,) * 12, n_head=8, n_head_kv=2, n_vocab=8192))


def _show(model: str, workers: Sequence[str], effort: TuneEffort) -> None:
    for number in (1, 2):
        result = tune(model, detection.detect(rpc=workers), WISH, minutes=effort.minutes)
        _print_run(number, result)
    machine = detection.detect(rpc=workers)
    kept = planning.plan(model, machine, WISH)
    base = planning.plan(model, machine, replace(WISH, use_tuned=False))
    print(f"plan's note: {kept.notes[0]}")
    measured = [MeasuredPlan("kept", kept)]
    measured += [
        MeasuredPlan(split_name(placement), replace(base, placement=placement))
        for placement in fitting(base, machine)
    ]
    for number in range(effort.loads):
        for each in measured if number % 2 == 0 else measured[::-1]:
            request = PlanMeasurementRequest(
                plan=each.plan, prompt_tokens=1, depth=DEPTH, streams=1, seconds=effort.seconds
            )
            each.steps_s.append(step_seconds(measure_plan(request)))
    winner, *splits = measured
    best = min(splits, key=lambda each: each.step_s)
    for each in sorted(measured, key=lambda each: each.step_s)[:8]:
        spread = f"{min(each.steps_s) * 1e3:.1f} to {max(each.steps_s) * 1e3:.1f}"
        print(f"{each.name:<28} {each.step_s * 1e3:7.2f} ms a token ({spread})")
    same = next((each for each in splits if each.plan.placement == kept.placement), None)
    print(f"splits that fit          {len(splits)}")
    print(f"kept                     {split_name(kept.placement)}, {winner.step_s * 1e3:.2f} ms a token")
    print(f"best measured            {best.name}, {best.step_s * 1e3:.2f} ms a token")
    print(f"kept behind the best     {winner.step_s / best.step_s - 1:+.1%}")
    once_more = "no split of whole layers" if same is None else f"{same.step_s / best.step_s - 1:+.1%}"
    print(f"its split, once more     {once_more}", flush=True)


def _print_run(number: int, result: TuneResult) -> None:
    choice = next((row.name for row in result.rows if row.is_predictions_choice), "-")
    gain = "" if result.best_rival_gain is None else f", best rival {result.best_rival_gain:+.1%}"
    margin = "" if result.best_rival_margin is None else f" (+-{result.best_rival_margin:.1%})"
    print(
        f"run {number}: {result.minutes:.1f} min, {len(result.rows)} candidates, "
        f"{sum(row.n_measurements for row in result.rows)} loads; prediction's choice {choice}; "
        f"winner {result.winner}{gain}{margin}"
    )
    for row in result.rows:
        rates = f"expected {row.expected_tokens_per_s or 0:.1f}, measured {row.tokens_per_s or 0:.1f} tok/s"
        ratio = "" if row.ratio is None else f", {row.ratio:+.1%}"
        ratio += "" if row.accepted is None else f", {row.accepted:.0%} of drafted tokens accepted"
        print(f"    {row.name:<28} {rates}{ratio}{f', failed: {row.failed}' if row.failed else ''}")
    for note in result.notes:
        print(f"    note: {note}", flush=True)


if __name__ == "__main__":
    main()
