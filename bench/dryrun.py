"""Milliseconds per placement of a warm dry run, and the analytic meter's difference from it.

    python -m bench.dryrun [--placements 8] [--seed 1] [--on-cards] [NAME or FILE ...]

Models are the header-only ones of tests/zoo, or files, on three unequal virtual CUDA cards: in several
contexts, over random placements (cards with few layers, with only the output, layers on the host, in any
order of cards) and over the planner's placements; with `--on-cards`, only over placements of all layers on
all
three cards. Times are of the first context. Differences of weights and context are shares of the device's
bytes. The ratio of compute is analytic over dry run: minimum and maximum over all devices with 16 MiB or
more, and how often it was below 1 and above 1.25; then the same for devices with less, and their largest
difference in MiB; then the host's ratio.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from tests.zoo import PUBLISHED, SMALL, write
from vram_llm.errors import ModelRefused
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine.types import Device, DeviceKind, Host, Machine, Source
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.llama_split import placement_of
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.search.search import choose_placement
from vram_llm.planner.types import Context, Placement, Workload
from vram_llm.units import GIB, MIB

CARDS = [
    Device(
        id=f"GPU{i}",
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


LARGE_BYTES = 16 * MIB


def _apart(exact: int, analytic: int) -> float:
    """The difference of `analytic` from `exact`, as a share of `exact`."""
    return 0.0 if exact == analytic else abs(analytic - exact) / max(exact, 1)


@dataclass
class Ratios:
    """Ratios of compute bytes, analytic over dry run."""

    found: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        below, above = (sum(map(test, self.found)) for test in ((1.0).__gt__, (1.25).__lt__))
        return f"{min(self.found, default=1):6.3f} {max(self.found, default=1):6.3f} {below:3} {above:3}"


@dataclass
class Figures:
    """The figures of one model."""

    ms: list[float] = field(default_factory=list)
    weights: float = 0.0  # the largest difference, as a share of the device's
    context: float = 0.0
    large: Ratios = field(default_factory=Ratios)
    small: Ratios = field(default_factory=Ratios)
    small_bytes: int = 0  # the largest difference among small compute buffers
    host: Ratios = field(default_factory=Ratios)

    def compare(self, exact: Estimate, analytic: Estimate) -> None:
        """Add one placement."""
        for one, other in zip(exact.devices, analytic.devices, strict=True):
            self.weights = max(self.weights, _apart(one.weights_bytes, other.weights_bytes))
            self.context = max(self.context, _apart(one.context_bytes, other.context_bytes))
            if not one.compute_bytes:
                continue
            ratio = other.compute_bytes / one.compute_bytes
            if one.compute_bytes >= LARGE_BYTES:
                self.large.found.append(ratio)
            else:
                self.small.found.append(ratio)
                self.small_bytes = max(self.small_bytes, abs(other.compute_bytes - one.compute_bytes))
        self.host.found.append(analytic.host.compute_bytes / exact.host.compute_bytes)


def contexts() -> list[Context]:
    """The usual one first."""
    usual = Context(
        n_ctx=16384, parallel=8, kv_type_k="f16", kv_type_v="f16", n_batch=2048, n_ubatch=512, n_threads=2,
        use_mmap=False, pipeline_copies=True,
    )  # fmt: skip
    return [
        usual,
        replace(usual, pipeline_copies=False, n_ubatch=128, parallel=1),
        replace(usual, n_ctx=65536, kv_type_k="q8_0", kv_type_v="q8_0", parallel=4),
        replace(usual, n_ctx=512, n_ubatch=64, parallel=16),
        replace(usual, n_ctx=4096, n_ubatch=2048, pipeline_copies=False),
    ]


def drawn(random: Random, n_layers: int) -> Placement:
    """A random placement: two of five have layers on the host, one of three has few layers on most cards."""
    n_host = random.choice((0, 0, 0, random.randint(0, n_layers), random.randint(1, max(n_layers // 2, 1))))
    n_items = n_layers + 1 - n_host
    order = random.sample(CARDS, min(random.choice((1, 2, 3, 3, 3)), n_items))
    if random.random() < 1 / 3:
        counts, rest = [1] * len(order), n_items - len(order)
        for i in range(len(order) - 1):
            more = random.randint(0, min(3, rest))
            counts[i], rest = counts[i] + more, rest - more
        counts[-1] += rest
        random.shuffle(counts)
    else:
        cuts = sorted(random.sample(range(1, n_items), len(order) - 1))
        counts = [b - a for a, b in zip([0, *cuts], [*cuts, n_items], strict=True)]
    assignment = [-1] * n_host + [card for card, count in enumerate(counts) for _ in range(count)]
    return placement_of([card.id for card in order], assignment)


def on_cards(random: Random, n_layers: int) -> Placement:
    """A placement with every layer on a card, and some on each card."""
    cuts = sorted(random.sample(range(1, n_layers + 1), len(CARDS) - 1))
    counts = [b - a for a, b in zip([0, *cuts], [*cuts, n_layers + 1], strict=True)]
    order = [card.id for card in random.sample(CARDS, len(CARDS))]
    return placement_of(order, [card for card, count in enumerate(counts) for _ in range(count)])


def planned(of: ModelProfile, context: Context) -> list[Placement]:
    """The planner's placements with memory for the whole model, for most of it and for half of it."""
    found = []
    for share in (1.3, 0.8, 0.5):
        free = [
            int(share * of.total_bytes * card.total_bytes / sum(c.total_bytes for c in CARDS))
            for card in CARDS
        ]
        cards = tuple(replace(card, free_bytes=n_bytes) for card, n_bytes in zip(CARDS, free, strict=True))
        meter = AnalyticMeter(of, context, cards, HOST, 0)
        found.append(choose_placement(of, Machine(devices=cards, host=HOST), Workload(), meter))
    return found


def measure(dry: DryRun, path: Path, n_placements: int, random: Random, *, everywhere: bool) -> Figures:
    """The figures of one model."""
    header, figures = read_header(path), Figures()
    of = profile(header)
    for number, context in enumerate(contexts()):
        exact = dry.meter(header, context, CARDS, HOST, 0)
        analytic = AnalyticMeter(of, context, CARDS, HOST, 0)
        draw = drawn if everywhere else on_cards
        placements = [draw(random, of.n_layers) for _ in range(n_placements)]
        if everywhere:
            placements += planned(of, context)
        for placement in placements:
            start = time.perf_counter()
            try:
                estimate = exact(placement)
            except ModelRefused:  # a KV type that its heads cannot have
                break
            if not number:
                figures.ms.append((time.perf_counter() - start) * 1e3)
            figures.compare(estimate, analytic(placement))
    return figures


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    zoo = PUBLISHED | SMALL
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(zoo))
    parser.add_argument(
        "--placements", type=int, default=8, help="random placements per context, added to the planner's"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--on-cards", action="store_true", help="put no layer on the host, and use all cards")
    given = parser.parse_args()
    print(
        f"{'':16} {'ms: median':>10} {'worst':>6} {'weights':>8} {'context':>8}"
        f" {'compute: <1 >1.25':>21} {'under 16 MiB: <1 >1.25':>28} {'host: <1 >1.25':>21}"
    )
    with tempfile.TemporaryDirectory() as folder, DryRun() as dry:
        for name in given.names or zoo:
            path = write(zoo[name](), Path(folder) / f"{name}.gguf") if name in zoo else Path(name)
            random = Random(f"{given.seed} {path.stem}")
            f = measure(dry, path, given.placements, random, everywhere=not given.on_cards)
            print(
                f"{path.stem[:16]:16} {statistics.median(f.ms):10.0f} {max(f.ms):6.0f} {f.weights:8.3%}"
                f" {f.context:8.3%} {f.large} {f.small} {f.small_bytes / MIB:6.1f} {f.host}"
            )


if __name__ == "__main__":
    main()
