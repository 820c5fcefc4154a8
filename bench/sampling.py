"""Tokens per second with sampling on the device and on the host, in turns, and the cost of new parameters.

    python -m bench.sampling [MODEL.gguf | --size 8b --n-vocab 151936] [--streams 1 8 32]
                             [--sampling greedy top-k plain nucleus] [--tokens 128] [--rounds 5]

It runs on the devices of this machine, or on the processor if there are none. Without a model, it uses random
Q8_0 weights of the given size. Two engines load the model, one with `--backend-sampling on` and one with
`off`: there must be memory for both. Every prompt is new. Of a step, "llama" is llama_decode with the wait
for the device (chains run in it, and logits are copied), "sampling" the host's work on logits, and "host" the
rest.

Then single requests follow, with the parameters of the last request or with new ones. The difference of their
times to the first token is the cost of attaching a chain, for which all streams would wait.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from tools.random_model import SIZES, write_sized
from vram_llm.engine.client import EngineClient
from vram_llm.engine.request import Request, SamplingParams
from vram_llm.engine.stats import EngineStats
from vram_llm.planner.types import BackendSampling, Plan, Workload
from vram_llm.workflows import detection, planning

OFF, ON = "host", "device"
WAYS = {
    "greedy": SamplingParams(temperature=0),
    "top-k": SamplingParams(temperature=0.8, top_k=40, top_p=0.95),
    "plain": SamplingParams(),  # what OpenAI's clients send
    "nucleus": SamplingParams(temperature=0.8, top_p=0.95),
}
_numbers = itertools.count()


async def answer(engine: EngineClient, prompt: tuple[int, ...], n_tokens: int, way: SamplingParams) -> float:
    """Answer one request. Returns the seconds to its first token."""
    request = Request(
        id=str(next(_numbers)), prompt=prompt, max_tokens=n_tokens, ignore_eos=True, sampling=way
    )
    started, first_s = time.perf_counter(), 0.0
    async for event in engine.generate(request):
        if event.error is not None:
            raise SystemExit(f"the engine refused a request: {event.error}")
        first_s = first_s or time.perf_counter() - started
    return first_s


async def together(
    engine: EngineClient, prompts: list[tuple[int, ...]], n_tokens: int, way: SamplingParams
) -> tuple[float, EngineStats, EngineStats]:
    """Tokens per second over all answers at once, and the engine's figures before and after."""
    before, started = engine.stats, time.perf_counter()
    await asyncio.gather(*(answer(engine, prompt, n_tokens, way) for prompt in prompts))
    return len(prompts) * n_tokens / (time.perf_counter() - started), before, engine.stats


class Comparison:
    """Two engines of the same model."""

    def __init__(self, engines: dict[str, EngineClient], n_vocab: int, args: argparse.Namespace) -> None:
        self._engines, self._n_vocab, self._args = engines, n_vocab, args
        self._random = np.random.default_rng(5)

    def _prompts(self, n: int) -> list[tuple[int, ...]]:
        return [(1, *map(int, self._random.integers(300, self._n_vocab, 23))) for _ in range(n)]

    async def rates(self, name: str, n_streams: int) -> None:
        """Print both engines' tokens per second, and their ratio."""
        rates: dict[str, list[float]] = {setting: [] for setting in self._engines}
        steps: dict[str, list[tuple[EngineStats, EngineStats]]] = {setting: [] for setting in self._engines}
        for i in range(self._args.rounds + 1):
            for setting in list(self._engines)[:: 1 if i % 2 else -1]:
                rate, *figures = await together(
                    self._engines[setting], self._prompts(n_streams), self._args.tokens, WAYS[name]
                )
                if i:  # the first round warms up
                    rates[setting].append(rate)
                    steps[setting].append((figures[0], figures[1]))
        for setting in self._engines:
            rounds = ", ".join(f"{rate:.0f}" for rate in rates[setting])
            print(
                f"{name:<8} {n_streams:>3} {setting:<7}{statistics.median(rates[setting]):9.1f} tok/s"
                f"  {_step(steps[setting])}  (rounds: {rounds})"
            )
        ratios = [on / off for off, on in zip(rates[OFF], rates[ON], strict=True)]
        print(f"{name:<8} {n_streams:>3} ratio  {statistics.median(ratios):9.3f}", flush=True)

    async def attaching(self) -> None:
        """Print the time to the first token of a request with parameters that no slot has."""
        engine, temperatures = self._engines[ON], itertools.count(1)
        way = SamplingParams(temperature=0.9, top_k=40, top_p=0.95)
        firsts: dict[str, list[float]] = {"the same": [], "new": []}
        before = engine.stats
        for i in range(2 * self._args.attaches + 2):
            is_new = bool(i % 2)
            if is_new:
                way = SamplingParams(temperature=0.9 + next(temperatures) / 1000, top_k=40, top_p=0.95)
            first_s = await answer(engine, self._prompts(1)[0], 8, way)
            if i > 1:
                firsts["new" if is_new else "the same"].append(first_s)
        for name, seconds in firsts.items():
            print(f"TTFT with parameters that are {name:<9} {statistics.median(seconds) * 1000:8.2f} ms")
        n_reserved = engine.stats.n_reserved - before.n_reserved
        each_ms = (engine.stats.reserve_s - before.reserve_s) / max(n_reserved, 1) * 1000
        print(f"of which llama.cpp reserves for     {each_ms:8.2f} ms (mean of {n_reserved})")


def _step(figures: list[tuple[EngineStats, EngineStats]]) -> str:
    """The time of a step by parts, and the share of tokens that are sampled on the device."""
    n_steps = sum(after.n_steps - before.n_steps for before, after in figures)
    n_tokens = sum(after.n_generated_tokens - before.n_generated_tokens for before, after in figures)
    n_device = sum(after.n_device_tokens - before.n_device_tokens for before, after in figures)
    parts = []
    for part in ("llama_s", "sampling_s", "host_s"):
        spent_s = sum(getattr(after, part) - getattr(before, part) for before, after in figures)
        parts.append(f"{part.removesuffix('_s')} {spent_s / n_steps * 1000:.2f}")
    return f"ms a step: {', '.join(parts)}; {n_device / n_tokens:.0%} on the device"


async def run(plans: dict[str, Plan], args: argparse.Namespace) -> None:
    """Load both, compare, stop both."""
    engines = {name: EngineClient(plan, name) for name, plan in plans.items()}
    try:
        infos = []
        for engine in engines.values():
            engine.start()
            infos.append(await engine.ready())
        comparison = Comparison(engines, infos[0].n_vocab, args)
        for name in args.sampling:
            for n_streams in args.streams:
                await comparison.rates(name, n_streams)
        await comparison.attaching()
    finally:
        for engine in engines.values():
            await engine.stop()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", metavar="MODEL.gguf")
    parser.add_argument("--size", choices=list(SIZES), default="120m")
    parser.add_argument("--n-vocab", type=int, default=32000)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--sampling", choices=list(WAYS), nargs="+", default=["greedy", "top-k"])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--attaches", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.model or str(write_sized(Path(folder) / "random.gguf", args.size, args.n_vocab))
        machine, parallel = detection.detect(), max(args.streams)
        plans = {
            name: planning.plan(
                path,
                machine,
                Workload(n_ctx=512 * parallel, parallel=parallel, reserve_bytes=0, backend_sampling=sampling),
            )
            for name, sampling in ((OFF, BackendSampling.OFF), (ON, BackendSampling.ON))
        }
        place = plans[ON].placement.output_device
        device = next((used.name for used in plans[ON].devices if used.id == place), place)
        print(f"{plans[ON].model.name}, its output on {device}")
        asyncio.run(run(plans, args))


if __name__ == "__main__":
    main()
