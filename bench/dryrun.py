"""Milliseconds a placement takes the dry run once warm, and how far the analytic meter is from it.

    python bench/dryrun.py [--n-ctx 16384] [--placements 8] [NAME ...]

Models are the header-only ones of tests/zoo, on three unequal virtual CUDA cards, whole and with some layers
on the host. Differences are analytic less dry run; the ratio of compute is analytic over dry run, over all
devices and placements.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.zoo import PUBLISHED, SMALL, write
from vram_llm.llama.dryrun import DryRun
from vram_llm.machine.types import Device, DeviceKind, Host, Source
from vram_llm.model.header import read_header
from vram_llm.model.profile import profile
from vram_llm.plan.layout import placement_of
from vram_llm.plan.memory import AnalyticMeter
from vram_llm.plan.types import Context, Estimate, Placement
from vram_llm.units import GIB

CARDS = [
    Device(
        id=f"CUDA{i}",
        name=f"{gib} GiB",
        kind=DeviceKind.CUDA,
        total_bytes=gib * GIB,
        free_bytes=gib * GIB,
        memory_source=Source.GIVEN,
        row_padding=512,
    )
    for i, gib in enumerate((24, 24, 12))
]
HOST = Host(name="host", cores=2, total_bytes=64 * GIB, available_bytes=64 * GIB)


def _apart(one: int, other: int) -> float:
    """How far `other` is from `one`, as a share of it."""
    return 0.0 if one == other else abs(other - one) / max(one, 1)


@dataclass
class Figures:
    """Of one model."""

    ms: list[float]
    weights: float = 0.0  # the largest difference, as a share of the device's
    context: float = 0.0
    lowest: float = 9.0
    highest: float = 0.0
    host_lowest: float = 9.0
    host_highest: float = 0.0

    def compare(self, exact: Estimate, analytic: Estimate) -> None:
        """Take in one placement."""
        for one, other in zip(exact.devices, analytic.devices, strict=True):
            self.weights = max(self.weights, _apart(one.weights_bytes, other.weights_bytes))
            if one.context_bytes or other.context_bytes:
                self.context = max(self.context, _apart(one.context_bytes, other.context_bytes))
            ratio = other.compute_bytes / one.compute_bytes if one.compute_bytes else 1.0
            self.lowest, self.highest = min(self.lowest, ratio), max(self.highest, ratio)
        ratio = analytic.host.compute_bytes / exact.host.compute_bytes
        self.host_lowest, self.host_highest = min(self.host_lowest, ratio), max(self.host_highest, ratio)


def placements(n_layers: int, n: int) -> list[Placement]:
    """`n` different cuts of the layers, half of them with layers on the host."""
    random = Random(n_layers)
    found = []
    for number in range(n):
        n_host = random.randint(1, n_layers // 2) if number % 2 else 0
        n_cards = random.randint(1, min(len(CARDS), n_layers - n_host))
        cuts = sorted(random.sample(range(1, n_layers + 1 - n_host), n_cards - 1))
        counts = [b - a for a, b in zip([0, *cuts], [*cuts, n_layers + 1 - n_host], strict=True)]
        assignment = [-1] * n_host + [card for card, count in enumerate(counts) for _ in range(count)]
        found.append(placement_of([card.id for card in CARDS], assignment))
    return found


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    zoo = PUBLISHED | SMALL
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(zoo))
    parser.add_argument("--n-ctx", type=int, default=16384)
    parser.add_argument("--n-ubatch", type=int, default=512)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--placements", type=int, default=8)
    given = parser.parse_args()
    context = Context(
        n_ctx=given.n_ctx, parallel=given.parallel, kv_type_k="f16", kv_type_v="f16", n_batch=2048,
        n_ubatch=given.n_ubatch, n_threads=2, use_mmap=False, pipeline_copies=True,
    )  # fmt: skip
    print(
        f"{'':16} {'ms: median':>10} {'worst':>6} {'weights':>9} {'context':>9} {'compute':>13} {'host':>13}"
    )
    with tempfile.TemporaryDirectory() as folder, DryRun() as dry:
        for name in given.names or zoo:
            header = read_header(write(zoo[name](), Path(folder) / f"{name}.gguf"))
            of = profile(header)
            exact = dry.meter(header, context, CARDS, HOST, 0)
            analytic = AnalyticMeter(of, context, CARDS, HOST, 0)
            figures = Figures([])
            for placement in placements(of.n_layers, given.placements):
                start = time.perf_counter()
                said = exact(placement)
                figures.ms.append((time.perf_counter() - start) * 1e3)
                figures.compare(said, analytic(placement))
            f = figures
            print(
                f"{name:16} {statistics.median(f.ms):10.0f} {max(f.ms):6.0f} {f.weights:9.3%}"
                f" {f.context:9.3%}"
                f" {f.lowest:6.3f} {f.highest:6.3f} {f.host_lowest:6.3f} {f.host_highest:6.3f}"
            )


if __name__ == "__main__":
    main()
