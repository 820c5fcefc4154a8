"""Placements of experts and feed-forward weights: the plan's dry run against one from its emitted flags.

    python -m bench.overrides [--placements 200] [--seed 1] [--zoo FOLDER]

Three unequal virtual CUDA cards and the host get random runs of layers, and some layers' experts,
feed-forward networks or single matrices of them are put elsewhere, in random contexts. Each plan is emitted
as a llama-server command. The command is read again by llama-server's own rules (tests/server_command.py),
and llama.cpp's dry run of what it says must give every device and the host the same weights, context and
compute to the byte, and the same graph splits. Models are those of tests/zoo, or of a folder of headers:
every one with experts, and three of other architectures without. Exits with 1 if a figure differs.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

from tests.moved_placements import (
    differences,
    dry_runs_of_plan_and_command,
    random_context,
    random_placement,
)
from tests.zoo import PUBLISHED, SMALL, gpt_oss, write
from vram_llm.errors import ModelRefused
from vram_llm.llama import bindings
from vram_llm.llama.dryrun import buffers, ggml_structs, reservation
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile
from vram_llm.model.strip import write_stripped

_DENSE_MODELS = 3  # of different architectures


def headers(folder: Path, zoo: Path | None) -> dict[str, Path]:
    """Stripped headers by name: all of models with experts, three of others."""
    if zoo is None:
        models = PUBLISHED | SMALL | {"gpt_oss_120b": gpt_oss}
        files = {name: write(models[name](), folder / f"{name}.whole.gguf") for name in models}
    else:
        shards = sorted(zoo.glob("**/*.gguf"))
        files = {path.stem: path for path in shards if "-of-" not in path.stem or "-00001-of-" in path.stem}
    found: dict[str, Path] = {}
    dense: set[str] = set()
    for name, path in files.items():
        header = read_header(path)
        of = profile(header)
        is_new = of.architecture not in dense and len(dense) < _DENSE_MODELS and of.pooling is None
        if of.n_expert or is_new:
            found[name] = write_stripped(header, folder / f"{name}.gguf")
            dense |= set() if of.n_expert else {of.architecture}
    return found


def start() -> None:
    """Make llama.cpp ready for dry runs in this process."""
    bindings.log_errors_only()
    bindings.C.llama_backend_init()
    ggml_structs.check()
    reservation.check()
    buffers.skip_clearing_host_buffers()


def compare(paths: Mapping[str, Path], n_placements: int, seed: int) -> Counter[str]:
    """Print a line for each model; the number of placements in which each kind of figure differed."""
    wrong: Counter[str] = Counter()
    print(f"{'model':42} {'placements':>10} {'refused':>8} {'differ':>7} {'short options':>14} {'s':>6}")
    for number, (name, path) in enumerate(paths.items()):
        of, pick = profile(read_header(path)), Random(f"{seed} {name}")
        n = n_placements // len(paths) + (number < n_placements % len(paths))
        n_refused = n_differ = n_short = 0
        begin = time.perf_counter()
        for _ in range(n):
            placement, context = random_placement(pick, of), random_context(pick, of)
            try:
                planned, emitted, command = dry_runs_of_plan_and_command(path, of, placement, context)
            except ModelRefused:  # a KV type that its heads cannot have
                n_refused += 1
                continue
            n_short += "--n-cpu-" in command
            if differ := differences(planned, emitted):
                n_differ += 1
                wrong.update(differ)
                print(f"{name}: {', '.join(differ)} differ\n{command}\n{planned}\n{emitted}")
        seconds = time.perf_counter() - begin
        print(f"{name[:42]:42} {n:10} {n_refused:8} {n_differ:7} {n_short:14} {seconds:6.1f}")
    return wrong


def main() -> int:
    """Print the table. Returns 1 if a figure differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--placements", type=int, default=200, help="of all models together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--zoo", type=Path, help="folder of GGUF headers; else those of tests/zoo")
    given = parser.parse_args()
    start()
    with tempfile.TemporaryDirectory() as folder:
        wrong = compare(headers(Path(folder), given.zoo), given.placements, given.seed)
    print("every figure is equal" if not wrong else f"differ: {dict(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
