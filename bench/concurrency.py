"""Tokens per second of one stream and of eight, side by side, and whether the answers are the same.

    python -m bench.concurrency [--streams 8] [--tokens 96] [--rounds 3]

A random-weight llama of about 120 million parameters at Q8_0 on the CPU. One stream and eight alternate, so
that a noisy machine harms both. Every prompt is also answered alone. Where the two answers differ, the gap
between the two best logits is printed with the effect of the kernels' rounding on a logit.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tools.random_model import write_120m
from vram_llm.engine.client import EngineClient
from vram_llm.engine.request import Request, SamplingParams
from vram_llm.planner.types import Plan, Workload
from vram_llm.workflows import detection, planning

if TYPE_CHECKING:
    from vram_llm.llama.model import LoadedModel

GREEDY = SamplingParams(temperature=0)


def prompts(n: int) -> list[tuple[int, ...]]:
    """`n` prompts of 24 to 45 random tokens; every call returns the same ones."""
    random = np.random.default_rng(11)
    return [(1, *map(int, random.integers(300, 32000, 24 + 3 * i))) for i in range(n)]


async def answer(engine: EngineClient, name: str, prompt: tuple[int, ...], n_tokens: int) -> list[int]:
    """The greedy continuation of `prompt`."""
    request = Request(id=name, prompt=prompt, max_tokens=n_tokens, ignore_eos=True, sampling=GREEDY)
    return [token async for event in engine.generate(request) for token in event.token_ids]


async def together(
    engine: EngineClient, batch: list[tuple[int, ...]], n_tokens: int
) -> tuple[float, list[list[int]]]:
    """Answer all prompts at once. Returns tokens per second of all together, and the answers."""
    started = time.perf_counter()
    answers = await asyncio.gather(
        *(answer(engine, f"{started}-{i}", prompt, n_tokens) for i, prompt in enumerate(batch))
    )
    return sum(map(len, answers)) / (time.perf_counter() - started), answers


async def measure(
    plan: Plan, n_streams: int, n_tokens: int, rounds: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Print the rates. Returns the answers of single streams and of streams together."""
    engine = EngineClient(plan, "bench")
    engine.start()
    try:
        await engine.ready()
        batch = prompts(n_streams)
        await together(engine, batch, 8)  # warm the caches
        ones, manys = list[float](), list[float]()
        among: list[list[int]] = []
        for _ in range(rounds):
            one, _ = await together(engine, batch[:1], n_tokens)
            many, among = await together(engine, batch, n_tokens)
            ones.append(one)
            manys.append(many)
        alone = [(await together(engine, [prompt], n_tokens))[1][0] for prompt in batch]
    finally:
        await engine.stop()
    one, many = statistics.median(ones), statistics.median(manys)
    ratios = [b / a for a, b in zip(ones, manys, strict=True)]
    print(f"1 stream     {one:7.1f} tok/s   (rounds: {', '.join(f'{x:.1f}' for x in ones)})")
    print(f"{n_streams} streams    {many:7.1f} tok/s   (rounds: {', '.join(f'{x:.1f}' for x in manys)})")
    listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"ratio        {statistics.median(ratios):7.2f}         (rounds: {listed})")
    complete = sum(len(answer) == n_tokens for answer in among)
    print(f"complete     {complete} of {n_streams} answers have all {n_tokens} tokens")
    return alone, among


def compare(plan: Plan, alone: list[list[int]], among: list[list[int]]) -> None:
    """Print where answers differ, and the gap between the two best logits there."""
    from vram_llm.llama.model import LoadedModel

    model = LoadedModel(plan)
    same = 0
    for i, (prompt, a, b) in enumerate(zip(prompts(len(alone)), alone, among, strict=True)):
        at = next((k for k, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)
        if at is None:
            same += 1
            continue
        gap, rounding = gap_and_rounding(model, [*prompt, *a[:at]])
        verdict = "within rounding" if gap <= rounding else "MORE THAN ROUNDING"
        print(
            f"answer {i} differs at token {at}: best two logits {gap:.2g} apart, {verdict} ({rounding:.2g})"
        )
    print(f"the same     {same} of {len(alone)} answers, token for token")
    model.close()


def gap_and_rounding(model: "LoadedModel", tokens: list[int]) -> tuple[float, float]:
    """The gap between the two best logits after `tokens`, and how far rounding can move them apart.

    The latter is twice the change of a logit between computing `tokens` at once, one at a time, and at once
    with another sequence: from 64 rows on, ggml's flash attention on the CPU works in tiles and rounds
    differently.
    """
    ways = [
        logits_after(model, tokens, len(tokens)),
        logits_after(model, tokens, 1),
        logits_after(model, tokens, len(tokens), beside=128),
    ]
    best = np.sort(ways[0])[-2:]
    return float(best[1] - best[0]), 2 * float(np.ptp(ways, axis=0).max())


def logits_after(
    model: "LoadedModel", tokens: list[int], chunk: int, *, beside: int = 0
) -> npt.NDArray[np.float32]:
    """Logits after `tokens`, computed `chunk` at a time, with `beside` tokens of another sequence as well."""
    model.forget(0)
    model.forget(1)
    row = 0
    for start in range(0, len(tokens), chunk):
        model.batch.clear()
        if beside:
            model.batch.add([1] * beside, 0, 1, n_outputs=0)
        part = tokens[start : start + chunk]
        row = model.batch.add(part, start, 0, n_outputs=1)
        if model.decode() != 0:
            raise SystemExit("llama.cpp could not decode the comparison")
    return model.logits(row).copy()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_120m(Path(folder) / "120m-Q8_0.gguf")
        workload = Workload(n_ctx=2048, parallel=args.streams, reserve_bytes=0)
        plan = planning.plan(str(path), detection.detect(), workload)
        compare(plan, *asyncio.run(measure(plan, args.streams, args.tokens, args.rounds)))


if __name__ == "__main__":
    main()
