"""Check whether plans from measured speeds are the fastest ones, on unequal workers.

    python -m bench.uneven [--show two|three|link] [--seconds 30] [--loads 3] [--rounds 5] [--tokens 8]

It calibrates RPC workers on this computer, each on a core and limited to a share of it (bench/rig.py), and
plans a random llama over them. Splits of the model, all loaded at the same time, take turns decoding. They
are loaded several times, since the position of a model in memory changes its speed for as long as it is
loaded.

two     one full-speed worker and one at 30 %: compares the plan with llama.cpp's own default and an even
        split, and predictions of ten splits with measurements
three   workers at full speed, at 50 % and at 25 %, with so little memory that all are needed: compares the
        plan with every split that fits
link    a local worker, and a full-speed one behind a link of 1 Gbit/s and 2 ms each way (bench/link.py):
        compares the plan with every split that fits. The local worker has 90 % of the core that it shares
        with the measuring program, then 25 % and too little memory on either worker alone

Two cores are enough, and root is needed. Nothing else should run meanwhile.
"""

import argparse
import itertools
import math
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.link import shaped_link
from bench.rig import measure_on, worker
from tools.random_model import write_llama
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.llama.measure.throughput import rates
from vram_llm.llama.measure.throughput_wire import BenchTest
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.machine.types import Machine
from vram_llm.model.header_reader import read_header
from vram_llm.planner.llama_split import placement_of
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import Placement, Plan, Workload
from vram_llm.workflows import detection, measurement, planning

FULL_CORE = 0
SLOW_CORE = 1  # shared with this program, which waits while a worker computes
WISH = Workload(n_ctx=512, parallel=1, reserve_bytes=0, expect_depth=16)


class Effort(NamedTuple):
    """Seconds of calibration, loads per split, rounds per load, and tokens per round."""

    seconds: float
    loads: int
    rounds: int
    tokens: int


@dataclass
class Split:
    """A placement with the predicted and the measured time per token."""

    name: str
    placement: Placement
    predicted_s: float
    rounds_s: list[tuple[float, ...]] = field(default_factory=list)  # of each load

    @property
    def measured_s(self) -> float:
        """Time per token: the median over loads of the lower quartile of their rounds.

        Other programs can only lengthen a round.
        """
        return statistics.median(
            statistics.quantiles(rounds_s, n=4, method="inclusive")[0] for rounds_s in self.rounds_s
        )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--show", choices=list(SHOWS), action="append")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=8)
    args = parser.parse_args()
    measure_on(SLOW_CORE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[DATA_DIR_VARIABLE] = folder
        for name in args.show or SHOWS:
            print(f"--- {name}", flush=True)
            SHOWS[name](Path(folder), Effort(args.seconds, args.loads, args.rounds, args.tokens))


def two(folder: Path, effort: Effort) -> None:
    """One worker in full, one at 30 %."""
    model = _model(folder, 1536, 4096)
    with worker(FULL_CORE) as full, worker(SLOW_CORE, 0.3) as slow:
        machine = calibrated([full, slow], effort.seconds)
        plan = planning.plan(model, machine, WISH)
        n = plan.model.n_layers
        default = replace(plan.placement, **_EVERYTHING, n_gpu_layers=n + 1)
        half = [0] * ((n + 1) // 2) + [1] * (n + 1 - (n + 1) // 2)
        splits = [
            Split("plan", plan.placement, predicted(plan, machine, plan.placement)),
            Split("llama.cpp's default", default, math.nan),
            Split("even", placement_of(["RPC0", "RPC1"], half), math.nan),
        ]
        fast_layers = [round(i * n / 9) for i in range(10)]
        splits += [
            Split(
                f"{count} on the fast one",
                placement := _fast_first(count, n),
                predicted(plan, machine, placement),
            )
            for count in fast_layers
        ]
        measure(plan, splits, effort)
    chosen, default_split, even, *ten = splits
    print_splits(splits)
    print(f"decode speed, plan to default      {default_split.measured_s / chosen.measured_s:.2f}")
    print(f"decode speed, plan to even         {even.measured_s / chosen.measured_s:.2f}")
    print(f"rank correlation of the ten        {spearman(ten):.3f}")
    print(f"worst prediction of the ten        {max(abs(_off(split)) for split in ten):.1%} off")


def three(folder: Path, effort: Effort) -> None:
    """Three workers of which all are needed: five, four and four of twelve layers fit."""
    model = _model(folder, 1024, 2816)
    with worker(FULL_CORE) as full, worker(SLOW_CORE, 0.5) as half, worker(SLOW_CORE, 0.25) as quarter:
        _every_split(model, [f"{full}@102MiB", f"{half}@90MiB", f"{quarter}@90MiB"], effort)


def link(folder: Path, effort: Effort) -> None:
    """A local worker and a faster one behind a slow link."""
    for model, share, limit in (
        (_model(folder, 1024, 2816), 0.9, ""),
        (_model(folder, 1024, 2816), 0.25, "@125MiB"),
    ):
        with (
            shaped_link() as far,
            worker(SLOW_CORE, share) as near,
            worker(FULL_CORE, host=far.address, prefix=far.inside) as behind,
        ):
            _every_split(model, [near + limit, behind + limit], effort)


def _model(folder: Path, n_embd: int, n_ff: int) -> str:
    """A random llama of twelve layers. A layer takes milliseconds of a core, far above its overhead."""
    path = folder / f"{n_embd}.gguf"
    return str(
        write_llama(path, n_embd=n_embd, n_ff=(n_ff,) * 12, n_head=n_embd // 128, n_head_kv=2, n_vocab=8192)
    )


SHOWS = {"two": two, "three": three, "link": link}
_EVERYTHING: dict[str, Any] = {
    "device_order": ("RPC0", "RPC1"),
    "tensor_split": (),
}  # no split: llama.cpp makes its own


def calibrated(workers: Sequence[str], seconds: float) -> Machine:
    """The machine with every worker's speed as measured now, with no limit on its memory."""
    machine = detection.detect(rpc=[worker.partition("@")[0] for worker in workers])
    for name, record, _ in measurement.calibrate(machine, seconds=seconds):
        print(
            f"{name}: {record.read_bytes_per_s / 1e9:.2f} GB/s, {record.layer_overhead_s * 1e6:.0f} us a "
            f"layer, {record.step_overhead_s * 1e6:.0f} us a step, fit within {record.residual:.1%}"
        )
    return detection.detect(rpc=workers)


def predicted(plan: Plan, machine: Machine, placement: Placement) -> float:
    """Predicted seconds per token."""
    found = Predictor(detection.analyze(plan.model.path), plan.context, machine, WISH)(
        placement, pipelined=False
    )
    assert found is not None
    return found.step_s


def measure(plan: Plan, splits: Sequence[Split], effort: Effort) -> None:
    """Load all splits in one process, and decode with each in turn.

    The first is loaded twice and counts the second time: the first load in a fresh worker is slower.
    """
    plans = [replace(plan, placement=split.placement) for split in (splits[0], *splits)]
    for _ in range(effort.loads):
        _, *measured = rates(plans, [BenchTest(decode=effort.tokens)], effort.rounds)
        for split, (found,) in zip(splits, measured, strict=True):
            split.rounds_s.append(tuple(1 / tokens_per_s for tokens_per_s in found))


def _every_split(model: str, workers: Sequence[str], effort: Effort) -> None:
    machine = calibrated(workers, effort.seconds)
    plan = planning.plan(model, machine, WISH)
    splits = [
        Split(_name(placement), placement, predicted(plan, machine, placement))
        for placement in fitting(plan, machine)
    ]
    measure(plan, splits, effort)
    chosen = next(split for split in splits if split.placement == plan.placement)
    best = min(splits, key=lambda split: split.measured_s)
    print_splits(sorted(splits, key=lambda split: split.measured_s))
    print(f"splits that fit     {len(splits)}")
    print(f"chosen              {chosen.name}, {chosen.measured_s * 1e3:.2f} ms a token")
    print(f"best measured       {best.name}, {best.measured_s * 1e3:.2f} ms a token")
    print(f"chosen behind it    {chosen.measured_s / best.measured_s - 1:.1%}")
    print(f"rank correlation    {spearman(splits):.3f}")


def fitting(plan: Plan, machine: Machine) -> list[Placement]:
    """Every split that fits, over any of the devices in any order, with no layer on the host."""
    n = plan.model.n_layers
    ids = [device.id for device in machine.devices]
    found: list[Placement] = []
    with DryRun() as dry:
        header = read_header(plan.model.path)
        meter = dry.meter(header, plan.context, machine.devices, machine.host, WISH.reserve_bytes)
        for size in range(1, len(ids) + 1):
            for order in itertools.permutations(ids, size):
                for counts in _compositions(n, size):
                    assignment = [i for i, count in enumerate(counts) for _ in range(count)]
                    placement = placement_of(order, [*assignment, size - 1])
                    if meter(placement).fits:
                        found.append(placement)
    return found


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as `parts` counts above 0, in order."""
    if parts == 1:
        yield (total,)
        return
    for first in range(1, total - parts + 2):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)


def _fast_first(count: int, n_layers: int) -> Placement:
    """`count` layers on the fast worker and the rest on the slow one; the output with the last."""
    return placement_of(
        ["RPC0", "RPC1"], [0] * count + [1] * (n_layers - count) + [0 if count == n_layers else 1]
    )


def _name(placement: Placement) -> str:
    pairs = zip(placement.device_order, placement.layers_per_device, strict=True)
    return " ".join(f"{device}:{count}" for device, count in pairs)


def print_splits(splits: Sequence[Split]) -> None:
    """Print a line for each split: predicted, measured, and the range of its rounds."""
    for split in splits:
        rounds_s = [seconds for of_load in split.rounds_s for seconds in of_load]
        rounds = f"{min(rounds_s) * 1e3:.1f} to {max(rounds_s) * 1e3:.1f}"
        off = "" if math.isnan(split.predicted_s) else f"{_off(split):+.1%}"
        print(
            f"{split.name:<26} {split.predicted_s * 1e3:7.2f} ms predicted {split.measured_s * 1e3:7.2f} "
            f"measured ({rounds}) {1 / split.measured_s:6.1f} tok/s {off}"
        )


def _off(split: Split) -> float:
    """The relative error of the predicted tokens per second."""
    return split.measured_s / split.predicted_s - 1


def spearman(splits: Sequence[Split]) -> float:
    """Rank correlation of predicted and measured times."""
    predicted_ranks, measured_ranks = (
        np.argsort(np.argsort(values)).astype(float)
        for values in ([s.predicted_s for s in splits], [s.measured_s for s in splits])
    )
    return float(np.corrcoef(predicted_ranks, measured_ranks)[0, 1])


if __name__ == "__main__":
    main()
