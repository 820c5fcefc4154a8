"""Tensor splits over RPC workers on this computer: planned bytes, logits, and speed against other shares.

    python -m bench.tensor_split [--seconds 8] [--rounds 5] [--tokens 3] [--show memory|speed|link]

Small random models of three architectures. It prints a table and exits with 1 if a claim fails.

memory  two and three workers that count their own buffers (tests/counting_worker.py), with shares 1:1, 3:1
        and 5:3:1: each holds the planned bytes, and logits are those of a split by layers but for rounding
speed   workers that take times as long as 1:1, 1:3 and 3:5:15 (bench/slow_worker.py), calibrated, with their
        sums: of five choices of shares, loaded together and measured in turns, the plan's are the fastest.
        `--split-mode auto` splits by tensors on equal workers, and nowhere where whole layers are faster
link    a worker here and one behind a link of 2 ms each way (bench/link.py): `auto` splits by layers, which
        is faster

The models of `speed` have two wide layers, and a type whose arithmetic is the limit, because two cores that
read memory at once slow each other. The model of `link` has twelve thin ones, with 24 sums.
Two cores and root are needed, and nothing else should run.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from bench.link import shaped_link
from bench.rig import slow_worker, worker
from bench.uneven import FULL_CORE, SLOW_CORE, calibrated
from tests.counting_worker import CountingWorker, counting_workers
from tests.zoo.loadable import write_loadable
from tests.zoo.wide import WIDE, wide
from vram_llm.errors import EngineDied, ModelRefused
from vram_llm.llama import rpc
from vram_llm.llama.devices import Servers
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.llama.measure.throughput import rates
from vram_llm.llama.measure.throughput_wire import BenchTest
from vram_llm.llama.model import LoadedModel
from vram_llm.machine import sum_store
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.machine.types import Device, Fact, Host, Machine, Source
from vram_llm.model.header_reader import read_header
from vram_llm.planner.llama_split import placement_from_counts, tensor_placement
from vram_llm.planner.tensor_split import SplitChoice, SplitMode
from vram_llm.planner.types import Placement, Plan, Workload
from vram_llm.workflows import detection, measurement, planning

SHARES = ((1, 1), (3, 1), (5, 3, 1))
RIGS = {  # core, and times as long as it takes alone, of each worker; this program is on the second core
    (1, 1): ((FULL_CORE, 2.0), (SLOW_CORE, 2.0)),
    (3, 1): ((FULL_CORE, 1.0), (SLOW_CORE, 3.0)),
    (5, 3, 1): ((FULL_CORE, 1.0), (SLOW_CORE, 5 / 3), (SLOW_CORE, 5.0)),
}
WISH = Workload(n_ctx=512, parallel=1, reserve_bytes=0, expect_depth=16)
_N_LAYERS = 2  # of the models of `speed`
_ON_WORKERS = replace(WISH, n_gpu_layers=_N_LAYERS + 1)  # this computer's own cores are no device of the rig
_SHAPE = {"llama": {"ff": 16384}, "qwen3moe": {"ff": 8192}, "gemma3": {"ff": 16384}}
_HOST_BYTES_PER_S = 1e9
_N_CHOICES = 5
_STEPS = (0.125, 0.1875, 0.25, 0.3125, 0.375)  # of everything, moved from one device to another
_N_TOKENS = 128
_MOST_OFF = 1e-3  # of the standard deviation of logits, by rounding


class Claims:
    """Prints rows of the table, and counts the claims that failed."""

    def __init__(self) -> None:
        self.n_failed = 0

    def row(self, name: str, *cells: str, claims: dict[str, bool]) -> None:
        """Print a row; what fails is named at its end."""
        failed = [claim for claim, holds in claims.items() if not holds]
        self.n_failed += len(failed)
        verdict = "FAILS: " + ", ".join(failed) if failed else "holds"
        print(" | ".join((f"{name:<24}", *cells, verdict)), flush=True)


@dataclass(frozen=True, slots=True)
class Effort:
    """Seconds of calibration of each worker, rounds, and tokens a round."""

    seconds: float
    rounds: int
    tokens: int


# -- memory --------------------------------------------------------------------------------------


def memory(folder: Path, claims: Claims, _effort: Effort) -> None:
    """Bytes that workers count, and logits, for each architecture and all SHARES."""
    servers: Servers = {}
    with counting_workers(3, folder) as counting, DryRun() as dry:
        devices, host = rpc.devices(tuple(worker.endpoint for worker in counting)), detection.detect().host
        for architecture in WIDE:
            path = write_loadable(wide(architecture), folder / f"small-{architecture}.gguf", "F32")
            plan = _unhurried_plan(path, devices, host)
            n_layers = plan.model.n_layers
            by_layers = placement_from_counts([each.id for each in devices[:2]], [2, 1], n_layers)
            expected, _ = _loaded(plan, by_layers, servers, counting)
            meter = dry.meter(read_header(path), plan.context, devices, host, 0)
            for shares in SHARES:
                placement = tensor_placement([each.id for each in devices[: len(shares)]], shares, n_layers)
                planned = [use.use.total_bytes for use in meter(placement).devices]
                logits, held = _loaded(plan, placement, servers, counting)
                off = float(np.abs(logits - expected).max() / expected.std())
                claims.row(
                    f"{architecture} {_ratio(shares)}",
                    f"planned {planned} bytes, held {held[: len(shares)]}",
                    f"logits off by {off:.1e} of their deviation",
                    claims={"bytes": planned == held[: len(shares)], "logits": off < _MOST_OFF},
                )
            path.unlink()


def _unhurried_plan(path: Path, devices: Sequence[Device], host: Host) -> Plan:
    wish = replace(WISH, parallel=2, n_ubatch=_N_TOKENS)
    return planning.plan(str(path), Machine(devices=tuple(devices), host=host), wish, compares=False)


def _loaded(
    plan: Plan, placement: Placement, servers: Servers, counting: Sequence[CountingWorker]
) -> tuple[npt.NDArray[np.float32], list[int]]:
    """The logits after a full micro-batch, and the bytes that each worker then holds."""
    model = LoadedModel(replace(plan, placement=placement), servers=servers)
    try:
        model.batch.add([i * 7919 % 1000 for i in range(_N_TOKENS)], 0, 0, n_outputs=1)
        if model.decode():
            raise SystemExit("llama.cpp could not run the batch")
        model.wait()
        return model.logits(_N_TOKENS - 1).copy(), [worker.held_bytes for worker in counting]
    finally:
        model.close()


# -- speed ---------------------------------------------------------------------------------------


def speed(folder: Path, claims: Claims, effort: Effort) -> None:
    """The plan's shares against four others, on each rig."""
    models = {architecture: _write_large(folder, architecture) for architecture in WIDE}
    for ratio, places in RIGS.items():
        with ExitStack() as stack:
            endpoints = [stack.enter_context(slow_worker(*place)) for place in places]
            machine = _with_slow_host(_with_sums(calibrated(endpoints, effort.seconds), effort.seconds))
            for architecture, path in models.items():
                name = f"{architecture} on cores {_ratio(ratio)}"
                _compare(name, path, machine, claims, effort, is_even=len(set(ratio)) == 1)


def _with_slow_host(machine: Machine) -> Machine:
    """`machine` with a host that no weights are worth moving to: the workers have this computer's cores."""
    speed = machine.host.speed
    assert speed is not None
    slow = replace(speed, read_bytes_per_s=Fact(_HOST_BYTES_PER_S, Source.ASSUMED), types=())
    return replace(machine, host=replace(machine.host, speed=slow))


def _with_sums(machine: Machine, seconds: float) -> Machine:
    """`machine` with the sums of its devices as measured now."""
    for key, record, notes in measurement.calibrate_sums(machine, seconds=seconds):
        cost = "not measured" if record is None else f"{record.latency_s * 1e3:.2f} ms a sum"
        print("; ".join((f"{key}: {cost}", *notes)))
    return sum_store.with_measured_sums(machine)


def _write_large(folder: Path, architecture: str) -> str:
    model = wide(architecture, layers=_N_LAYERS, d=4096, head=128, **_SHAPE[architecture])
    return str(write_loadable(model, folder / f"{architecture}.gguf", "Q4_0"))


def _compare(
    name: str, path: str, machine: Machine, claims: Claims, effort: Effort, *, is_even: bool
) -> None:
    """One row: measured times of the plan's shares, four others, and whole layers."""
    auto, told, layers = (
        planning.plan(path, machine, replace(_ON_WORKERS, split_mode=mode), compares=False)
        for mode in (SplitChoice.AUTO, SplitChoice.TENSOR, SplitChoice.LAYER)
    )
    others = _other_shares(told, machine)
    plans = [told, *(replace(told, placement=other) for other in others), layers]
    *tensor_s, layers_s = measured_s(plans, effort)
    own_s, best_s = tensor_s[0], min(tensor_s[1:])
    listed = ", ".join(
        f"{_ratio(other.tensor_split)} {seconds * 1e3:.1f}"
        for other, seconds in zip(others, tensor_s[1:], strict=True)
    )
    takes = auto.placement.split_mode
    predicted = _predicted_ms(told), _predicted_ms(layers)
    claims.row(
        name,
        f"plan {_ratio(told.placement.tensor_split)} {own_s * 1e3:.1f} ms (predicted {predicted[0]})",
        f"others {listed}",
        f"by layers {layers_s * 1e3:.1f} (predicted {predicted[1]}), auto takes {takes}",
        claims={
            "five shares": len(tensor_s) == _N_CHOICES,
            "the plan's shares are the fastest": own_s < best_s,
            "auto takes no slower mode": takes is SplitMode.LAYER or own_s < layers_s,
            "auto takes tensors on equal cores": takes is SplitMode.TENSOR or not is_even,
        },
    )


def _predicted_ms(plan: Plan) -> str:
    return "unknown" if plan.speed is None else f"{plan.speed.step_s * 1e3:.1f}"


def measured_s(plans: Sequence[Plan], effort: Effort) -> list[float]:
    """Median seconds a token of each plan; all are loaded together and take turns.

    The first is loaded twice and counts the second time: the first load in a fresh worker is slower.
    """
    _, *found = rates([plans[0], *plans], [BenchTest(decode=effort.tokens)], effort.rounds)
    return [statistics.median(1 / rate for rate in of_plan[0]) for of_plan in found]


def _other_shares(plan: Plan, machine: Machine) -> list[Placement]:
    """Equal shares, and the plan's with parts moved between two devices, that llama.cpp takes: four."""
    own = np.array(plan.placement.tensor_split, float)
    total, found = own.sum(), list[Placement]()
    taken = [own / total]
    with DryRun() as dry:
        meter = dry.meter(
            read_header(plan.model.path), plan.context, machine.devices, machine.host, WISH.reserve_bytes
        )
        for shares in (np.full(len(own), 1 / len(own)), *_moved(own / total)):
            is_new = min(np.abs(shares - each).max() for each in taken) > _STEPS[0] / 2
            if not is_new or shares.min() <= 0 or len(found) == _N_CHOICES - 1:
                continue
            parts = [round(64 * share) for share in shares]
            placement = tensor_placement(plan.placement.device_order, parts, plan.model.n_layers)
            try:
                fits = meter(placement).fits
            except (ModelRefused, EngineDied):  # a device would get no share of a tensor
                continue
            if fits:
                found.append(placement)
                taken.append(shares)
    return found


def _moved(shares: npt.NDArray[np.float64]) -> Iterator[npt.NDArray[np.float64]]:
    for step in _STEPS:
        for i in range(len(shares)):
            for j in range(len(shares)):
                if i != j:
                    moved = shares.copy()
                    moved[i], moved[j] = moved[i] - step, moved[j] + step
                    yield moved


# -- slow link -----------------------------------------------------------------------------------


def link(folder: Path, claims: Claims, effort: Effort) -> None:
    """A worker here, and one behind a slow link."""
    thin = wide("llama", layers=12, d=1024, head=64, ff=2816)
    path = str(write_loadable(thin, folder / "thin.gguf", "F32"))
    with (
        shaped_link() as far,
        worker(SLOW_CORE, 0.8) as near,
        worker(FULL_CORE, 0.8, host=far.address, prefix=far.inside) as behind,
    ):
        machine = _with_sums(calibrated([near, behind], effort.seconds), effort.seconds)
        auto, told, layers = (
            planning.plan(path, machine, replace(WISH, split_mode=mode), compares=False)
            for mode in (SplitChoice.AUTO, SplitChoice.TENSOR, SplitChoice.LAYER)
        )
        tensor_s, layers_s = measured_s([told, layers], effort)
        claims.row(
            "llama, link of 2 ms",
            f"plan {_ratio(told.placement.tensor_split)} {tensor_s * 1e3:.1f} ms "
            f"(predicted {_predicted_ms(told)})",
            f"by layers {layers_s * 1e3:.1f} (predicted {_predicted_ms(layers)})",
            f"auto takes {auto.placement.split_mode}",
            claims={
                "auto does not take tensors": auto.placement.split_mode is SplitMode.LAYER,
                "layers are faster": layers_s < tensor_s,
            },
        )


def _ratio(shares: Sequence[int]) -> str:
    return ":".join(map(str, shares))


SHOWS = {"memory": memory, "speed": speed, "link": link}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--show", choices=list(SHOWS), action="append")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=3)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # workers, groups and the link are taken down
    os.sched_setaffinity(0, {SLOW_CORE})
    os.nice(-15)  # ahead of other programs
    load = psutil.cpu_percent(interval=3)
    print(f"other programs keep the cores {load:.0f} % busy" + (": figures will be off" if load > 10 else ""))
    claims = Claims()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[DATA_DIR_VARIABLE] = folder
        for name in args.show or SHOWS:
            SHOWS[name](Path(folder), claims, Effort(args.seconds, args.rounds, args.tokens))
    sys.exit(f"{claims.n_failed} claims failed" if claims.n_failed else None)


if __name__ == "__main__":
    main()
