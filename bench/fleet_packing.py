"""The time that packing a fleet takes: models of published shapes on unlike cards, by the analytic meter.

    python -m bench.fleet_packing [--models 12] [--rounds 3] [--zoo FOLDER] [--rig "RTX 4090 + 2x RTX 3060"]

The models are headers of tests/zoo, or of a folder, in the order of their names. Each round reads all
headers, finds places for each model, and packs them. The table has the places, then the sets that fit
together, and the times of the fastest round. Exits with 1 if that takes 3 s of a processor or more.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests import zoo
from vram_llm.machine.types import Machine
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile
from vram_llm.planner.fleet.limits import FittingModels, Limits
from vram_llm.planner.fleet.pack import Packing
from vram_llm.planner.fleet.pack_fleet import pack_fleet
from vram_llm.planner.fleet.place_options import PlaceFinder, equal_devices
from vram_llm.planner.fleet.room import budgets_of
from vram_llm.planner.fleet.types import FleetModelSpec, FleetSpec
from vram_llm.planner.types import Workload
from vram_llm.workflows.detection import detect

MOST_S = 3.0
RIG = (
    "RTX 4090 + RTX 3090 + 2x RTX 3060 12GB + RTX 3080 10GB + RTX 2080 Ti + RTX 4060 Ti 16GB + RTX A6000"
    " on 128GiB DDR4-3200 2ch"
)

MODELS: Mapping[str, Callable[[], zoo.Model]] = {
    "llama 8B": zoo.llama,
    "llama 4B": lambda: zoo.llama(layers=16),
    "llama 1B": lambda: zoo.llama(layers=16, d=2048, heads=32, ff=8192),
    "llama 14B": lambda: zoo.llama(layers=40, d=5120, heads=40, ff=17408),
    "llama 70B": lambda: zoo.as_q4_k_m(zoo.llama(layers=80, d=8192, heads=64, ff=28672)),
    "nemotron 49B": lambda: zoo.as_q4_k_m(zoo.nemotron_49b()),
    "gemma 27B": lambda: zoo.as_q4_k_m(zoo.gemma3()),
    "qwen 30B-A3B": lambda: zoo.as_q4_k_m(zoo.qwen3_moe()),
    "gpt-oss 20B": lambda: zoo.gpt_oss(layers=24, experts=32),
    "gpt-oss 120B": zoo.gpt_oss,
    "nemotron nano": lambda: zoo.as_q4_k_m(zoo.nemotron_nano()),
    "bert": zoo.SMALL["bert"],
}


def paths_of(folder: Path, zoo_folder: Path | None, n_models: int) -> dict[str, Path]:
    """Headers by the name of the model."""
    if zoo_folder is not None:
        shards = sorted(zoo_folder.glob("**/*.gguf"))
        first = [path for path in shards if "-of-" not in path.stem or "-00001-of-" in path.stem]
        return {path.stem: path for path in first[:n_models]}
    return {
        name: zoo.write(model(), folder / f"{number}.gguf")
        for number, (name, model) in enumerate(list(MODELS.items())[:n_models])
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """A packing, with the seconds of its parts."""

    read_s: float
    pack_s: float
    processor_s: float  # of both
    packing: Packing
    fitting: FittingModels


def one_round(paths: Mapping[str, Path], machine: Machine) -> Round:
    """Read the headers and pack the fleet."""
    began, processor_s = time.perf_counter(), time.process_time()
    spec = FleetSpec(
        models=tuple(FleetModelSpec(name=name, source=str(path)) for name, path in paths.items())
    )
    finders = {
        name: PlaceFinder(profile(read_header(path)), machine, Workload()) for name, path in paths.items()
    }
    read_s = time.perf_counter() - began
    limits = Limits(budgets=budgets_of(machine, Workload().reserve_bytes))
    packing, _ = pack_fleet(spec, finders, limits, equal_devices(machine, limits.budgets))
    uses = {name: [option.uses for option in layout.options] for name, layout in packing.layouts.items()}
    pack_s = time.perf_counter() - began - read_s
    return Round(read_s, pack_s, time.process_time() - processor_s, packing, FittingModels(limits, uses))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--rig", default=RIG)
    options = parser.parse_args()
    machine = detect(options.rig)
    with tempfile.TemporaryDirectory() as folder:
        paths = paths_of(Path(folder), options.zoo, options.models)
        rounds = [one_round(paths, machine) for _ in range(options.rounds)]
    least = min(rounds, key=lambda each: each.processor_s)
    print(f"{'model':44} {'GiB':>6} {'request':>8} {'load':>7}  devices")
    for name, layout in least.packing.layouts.items():
        gib = sum(layout.uses.values()) / 2**30
        places = ", ".join(" + ".join(option.devices) or "host" for option in layout.options)
        print(f"{name:44} {gib:6.1f} {layout.request_s:6.1f} s {layout.load_s:5.0f} s  {places}")
    for names in least.fitting.maximal_sets():
        print(f"fit together: {', '.join(sorted(names))}")
    total_s = least.read_s + least.pack_s
    proof = (
        "proven to be the best of these places" if least.packing.is_proven else "not proven to be the best"
    )
    print(
        f"{len(paths)} models on {len(machine.devices)} cards: headers {least.read_s:.2f} s, packing "
        f"{least.pack_s:.2f} s, together {total_s:.2f} s, of a processor {least.processor_s:.2f} s "
        f"(the fastest of {len(rounds)}); {proof}"
    )
    return int(least.processor_s >= MOST_S)


if __name__ == "__main__":
    sys.exit(main())
