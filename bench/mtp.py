"""The speed with and without a model's own MTP head, which mostly agrees or never does; and llama-server's.

    python -m bench.mtp [--tokens 96] [--rounds 5] [--threads N] [--no-server]

The models are a GLM-4.5 and a Qwen3.5 (a hybrid) in shape, of random weights, some 110 million parameters
in F32 on the CPU. There a step is mostly reading, as on cards, and a further row costs little. In the first
table one stream runs in this process, with and without the head: ratios of steps, of time and of processor
time, which other programs hardly change with `--threads 1`; medians of the rounds. In the second both servers
have the head, three tokens at most, and one client asks them in turns over HTTP; llama.cpp without a head
takes its turn too. Prompt lookup is always on in this engine, and off in llama-server (`--spec-type`).
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench.load import together
from bench.servers import free_port, llama_server, ours, running
from tests.zoo.heads import HEADS, write_agreeing
from tests.zoo.loadable import with_vocabulary
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Request, SamplingParams
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.mtp import MTP
from vram_llm.planner.types import Serving, Workload
from vram_llm.workflows import detection, planning

N_PROMPT, N_VOCAB = 64, 8000
SHAPE = {"layers": 16, "d": 768, "ff": 2048, "vocab": N_VOCAB}
KINDS = ("agrees", "useless")
_HEAD_OPTIONS = {
    "vram-llm": ("--draft", MTP),
    "llama-server": ("--spec-type", "draft-mtp", "--spec-draft-n-max", "3"),
}


def prompt(seed: int) -> tuple[int, ...]:
    """A prompt of random tokens."""
    pick = random.Random(seed)
    return (1, *(pick.randrange(300, N_VOCAB) for _ in range(N_PROMPT)))


def load(path: Path, threads: int | None, *, with_head: bool) -> Loop:
    """The engine with the model's head or without."""
    wish = Workload(
        n_ctx=1024, parallel=1, reserve_bytes=0, draft=MTP if with_head else None, n_threads=threads,
        serving=Serving(cache_reuse=0),
    )  # fmt: skip
    return Loop(LoadedModel(planning.plan(str(path), detection.detect(), wish, compares=False)))


class Answer(NamedTuple):
    """Steps of an answer; seconds and processor time from its first token to the last."""

    steps: int
    seconds: float
    processor_s: float


def answer(loop: Loop, n_tokens: int, seed: int) -> Answer:
    """Compute an answer of `n_tokens` to a prompt made from `seed`."""
    before = loop.stats()
    request = Request(
        id="r", prompt=prompt(seed), max_tokens=n_tokens, ignore_eos=True,
        sampling=SamplingParams(temperature=0.1, seed=seed),
    )  # fmt: skip
    if loop.submit(request) is not None:
        raise SystemExit("the engine refused the request")
    while loop.stats().n_generated_tokens == before.n_generated_tokens:
        loop.step()
    began, processor_began = time.perf_counter(), time.process_time()
    while not loop.is_idle:
        loop.step()
    return Answer(
        loop.stats().n_steps - before.n_steps,
        time.perf_counter() - began,
        time.process_time() - processor_began,
    )


def compare_engine(name: str, kind: str, path: Path, args: argparse.Namespace) -> None:
    """Print the ratios of one model with its head and without."""
    loops = {with_head: load(path, args.threads, with_head=with_head) for with_head in (False, True)}
    for loop in loops.values():
        answer(loop, 32, 1)  # warm the caches, and measure the cost of rows
    rounds: list[tuple[float, ...]] = []
    before, n_runs = loops[True].stats(), 0

    def note_batch(_: int) -> None:
        nonlocal n_runs
        n_runs += 1

    head = loops[True]._model.mtp_head
    assert head is not None
    head.note_batch = note_batch
    for i in range(args.rounds):
        order = (False, True) if i % 2 else (True, False)
        found = {with_head: answer(loops[with_head], args.tokens, 100 + i) for with_head in order}
        rounds.append(tuple(one / other for one, other in zip(found[False], found[True], strict=True)))
    after = loops[True].stats()
    n_drafted = after.n_model_drafted_tokens - before.n_model_drafted_tokens
    n_accepted = after.n_model_accepted_tokens - before.n_model_accepted_tokens
    steps, seconds, processor = zip(*rounds, strict=True)
    listed = ", ".join(f"{ratio:.2f}" for ratio in processor)
    print(
        f"{name:<9} {kind:<8} {statistics.median(steps):5.2f} times fewer steps, "
        f"{statistics.median(seconds):5.2f} times as fast, {statistics.median(processor):5.2f} times by "
        f"processor time (rounds: {listed}); of {args.rounds * args.tokens} tokens {n_drafted} drafted, "
        f"{n_accepted} accepted; the head ran {n_runs} times",
        flush=True,
    )
    for loop in loops.values():
        loop._model.close()


async def compare_servers(name: str, kind: str, path: Path, folder: Path, args: argparse.Namespace) -> None:
    """Print the tokens per second of both servers with the head, and of llama-server without."""
    lines = {
        "vram-llm": (ours, _HEAD_OPTIONS["vram-llm"]),
        "llama-server": (llama_server, _HEAD_OPTIONS["llama-server"]),
        "llama-server without": (llama_server, ()),
    }
    rates: dict[str, list[float]] = {server: [] for server in lines}
    with contextlib.ExitStack() as stack:
        ports = {}
        for server, (command, more) in lines.items():
            port = free_port()
            threads = ("-t", str(args.threads), "-tb", str(args.threads)) if args.threads else ()
            line = command(path, port, n_ctx=1024, parallel=1, more=(*more, *threads))
            ports[server] = stack.enter_context(
                running(line, port, folder / f"{server}.log", "/health", dict(os.environ))
            )
        for i in range(args.rounds + 1):
            for server in list(ports) if i % 2 else list(ports)[::-1]:
                rate, _ = await together(ports[server], [prompt(500 + i)], args.tokens)
                if i:  # the first round warms up
                    rates[server].append(rate)
    figures = {server: statistics.median(found) for server, found in rates.items()}
    ratio = statistics.median(a / b for a, b in zip(rates["vram-llm"], rates["llama-server"], strict=True))
    listed = ", ".join(f"{server} {rate:.1f}" for server, rate in figures.items())
    print(f"{name:<9} {kind:<8} tok/s: {listed}; vram-llm / llama-server {ratio:.2f}", flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads of engine and servers; all by default")
    parser.add_argument("--no-server", action="store_true", help="leave the servers out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for name, make in HEADS.items():
            for kind in KINDS:
                model = with_vocabulary(make(**SHAPE))
                path = write_agreeing(model, folder / f"{name}-{kind}.gguf", agrees=kind == "agrees")
                compare_engine(name, kind, path, args)
                if not args.no_server:
                    asyncio.run(compare_servers(name, kind, path, folder, args))
                path.unlink()


if __name__ == "__main__":
    main()
