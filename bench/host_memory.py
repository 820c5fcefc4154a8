"""Decode speed with weights in the host's memory: a mapped file, small pages, and large pages.

    python -m bench.host_memory [--rounds 15] [--tokens 12] [--threads 1] [--model FILE]

Three processes hold the same model (by default the 120M llama of bench.peers) and decode by turns. One maps
the file, one reads it into memory of common pages, one into memory for which glibc asks for large pages, as
in the environment of the engine (stderr_reason.environment). Times are of the processor, so that other
programs count for little. A line gives the median over rounds, and that of the ratio to the mapped file in
the same round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.random_model import write_120m
from vram_llm.planner.export.formats import to_json
from vram_llm.planner.types import Workload
from vram_llm.stderr_reason import environment
from vram_llm.workflows import detection, planning

_CHILD = """
import sys, time
from vram_llm.llama.model import LoadedModel
from vram_llm.workflows.saved_plans import load_plan
model, n_tokens = LoadedModel(load_plan(sys.argv[1])), int(sys.argv[2])
print("ready", flush=True)
for _ in sys.stdin:
    model.forget(0)
    times = []
    for tokens, position in ((list(range(3, 19)), 0), *(([7 + i], 16 + i) for i in range(n_tokens))):
        model.batch.clear()
        model.batch.add(tokens, position, 0, n_outputs=1)
        begin = time.process_time()
        assert model.decode() == 0
        model.wait()
        times.append(time.process_time() - begin)
    print(sum(times[1:]) / n_tokens, flush=True)
"""
_KINDS = ("mapped", "common pages", "large pages")


def start(kind: str, model: Path, folder: Path, n_tokens: int, n_threads: int) -> "subprocess.Popen[str]":
    """A process that holds the model and measures a round for each line it gets."""
    wish = Workload(
        n_ctx=1024,
        parallel=1,
        n_gpu_layers=0,
        reserve_bytes=0,
        n_threads=n_threads,
        use_mmap=kind == "mapped",
    )
    saved = folder / f"{kind}.json"
    saved.write_bytes(to_json(planning.plan(str(model), detection.detect(), wish)))
    variables = environment() if kind == "large pages" else dict(os.environ)
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(saved), str(n_tokens)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def measure(child: "subprocess.Popen[str]") -> float:
    """Seconds of the processor for a token."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    return float(child.stdout.readline())


def main() -> None:
    """Print a line for each kind of memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=12, help="decoded in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        model = given.model or write_120m(folder / "120m.gguf")
        children = {kind: start(kind, model, folder, given.tokens, given.threads) for kind in _KINDS}
        times: dict[str, list[float]] = {kind: [] for kind in _KINDS}
        for number in range(given.rounds + 1):
            for i in range(len(_KINDS)):
                kind = _KINDS[(number + i) % len(_KINDS)]
                seconds = measure(children[kind])
                if number:  # the first round warms up
                    times[kind].append(seconds)
        for child in children.values():
            child.communicate()
    print(f"{'weights':14} {'ms/token':>9} {'to mapped':>10}")
    for kind in _KINDS:
        ratio = statistics.median(a / b for a, b in zip(times[kind], times["mapped"], strict=True))
        print(f"{kind:14} {1e3 * statistics.median(times[kind]):9.2f} {ratio:10.2f}")


if __name__ == "__main__":
    main()
