"""What an API key notices of others: time to the first token, a flood; and whether Retry-After comes true.

    python -m bench.keys [--parts timing flood retry] [--rounds 40] [--answers 20] [--polite] [--model FILE]

Everything runs over HTTP on one server with keys of a file; the model is a ~120M-parameter llama at Q8_0.

- timing: one key asks for prompts that another key has asked for, that nobody has, and that it has itself, in
  turns. The first two take the same time; the third shows that prompts are cached.
- flood: nine keys stream all the time. In every other period a tenth key keeps a hundred requests in flight.
  The figure is the nine keys' tokens per second of the engine's processor time with the flood, over that
  without: other programs change it little. The engine has one thread, which does not wait for another.
  A tenth key takes a tenth from the others even if it does not flood: with --polite it has one request in
  flight in the other periods.
- retry: a key with two answers in flight at most is refused now and then. The figure is the time until a
  request is taken, over the promised one.
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import psutil

from bench.load import Stream, complete
from bench.servers import free_port, ours, running
from tools.random_model import write_120m
from vram_llm.server.keys_file import KeyLimits, KeyScope, add_key

NINE = tuple(f"key{i}" for i in range(9))
FLOOD, RETRY = "flood", "retry"
_N_FLOOD = 100  # requests in flight
_N_LEAD = 3  # answers of each key at the beginning of a period, not counted
_LOOK_EVERY_S = 0.02

Keys = dict[str, str]


class Prompts:
    """Prompts of random tokens, of which none begins like another."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(7)

    def new(self, n: int) -> list[int]:
        return [1, *map(int, self._random.integers(300, 32000, n - 1))]


async def timing(port: int, keys: Keys, rounds: int, prompts: Prompts) -> None:
    """Print medians of the time to the first token of a prompt of 400 tokens."""
    ann, bob = keys[NINE[0]], keys[NINE[1]]
    found: dict[str, list[float]] = {"nobody's": [], "the other's": [], "its own": []}
    for i in range(rounds + 1):
        theirs, fresh = prompts.new(400), prompts.new(400)
        await complete(port, theirs, 1, key=bob)
        order = [("the other's", theirs), ("nobody's", fresh)]
        for name, prompt in (*(order if i % 2 else order[::-1]), ("its own", fresh)):
            stream = await complete(port, prompt, 1, key=ann)
            if i:  # the first round warms up
                found[name].append(1000 * stream.ttft_s)
    medians = {name: statistics.median(times) for name, times in found.items()}
    difference = np.subtract(found["the other's"], found["nobody's"])
    random = np.random.default_rng(1)
    drawn = np.median(random.choice(difference, (2000, rounds)), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    print("time to the first token of 400:", ", ".join(f"{n} {ms:.1f} ms" for n, ms in medians.items()))
    print(
        f"the other's minus nobody's: median {np.median(difference):+.2f} ms, 95 % of medians drawn again "
        f"{low:+.2f} to {high:+.2f} ms ({rounds} rounds)"
    )


async def _ask_on(port: int, key: str, prompts: Prompts, streams: list[Stream]) -> None:
    """One request after the other, until it is cancelled."""
    while True:
        streams.append(Stream(0.0))
        try:
            await complete(port, prompts.new(32), 48, key=key, into=streams[-1])
        except (SystemExit, OSError):  # refused
            await asyncio.sleep(_LOOK_EVERY_S)  # before the next attempt


def _engine_cpu_s() -> float:
    """Processor time of the engine process, in seconds."""
    (engine,) = (
        process
        for process in psutil.Process().children(recursive=True)
        if "vram_llm.engine.worker" in process.cmdline()
    )
    times = engine.cpu_times()
    return times.user + times.system


async def _answered(streams: dict[str, list[Stream]], n: int) -> None:
    """Return once each of the nine keys has had `n` answers."""
    while any(len(streams[name]) <= n for name in NINE):
        await asyncio.sleep(_LOOK_EVERY_S)  # between two looks


async def _period(port: int, keys: Keys, answers: int, prompts: Prompts, n_flood: int) -> list[float]:
    """Tokens of each of the nine keys and of the tenth, per second of the engine's processor time."""
    streams: dict[str, list[Stream]] = {name: [] for name in (*NINE, FLOOD)}
    flood = [_ask_on(port, keys[FLOOD], prompts, streams[FLOOD]) for _ in range(n_flood)]
    nine = [_ask_on(port, keys[name], prompts, streams[name]) for name in NINE]
    tasks = [asyncio.create_task(work) for work in (*flood, *nine)]
    await _answered(streams, _N_LEAD)
    begin, cpu_s = time.perf_counter(), _engine_cpu_s()
    await _answered(streams, _N_LEAD + answers)
    end, cpu_s = time.perf_counter(), _engine_cpu_s() - cpu_s
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    counts = [
        sum(begin < at < end for stream in of_key for at in stream.chunks) for of_key in streams.values()
    ]
    return [count / cpu_s for count in counts]


async def flood(port: int, keys: Keys, periods: int, answers: int, prompts: Prompts, n_polite: int) -> None:
    """Print the nine keys' tokens per second with and without the flood, and with `n_polite` in its place."""
    totals: dict[bool, list[float]] = {False: [], True: []}
    spreads: list[float] = []
    shares: list[float] = []
    for i in range(2 * periods):
        flooded = i % 4 in (1, 2)  # without, with, with, without: the machine's drift counts for both
        rates = await _period(port, keys, answers, prompts, _N_FLOOD if flooded else n_polite)
        *nine, of_flood = rates
        totals[flooded].append(sum(nine))
        spreads.append(min(nine) / max(nine))
        if flooded:
            shares.append(of_flood / sum(rates))
    ratios = [with_it / without for with_it, without in zip(totals[True], totals[False], strict=True)]
    for flooded, rates in totals.items():
        listed = ", ".join(f"{rate:.0f}" for rate in rates)
        print(f"nine keys {'with' if flooded else 'without'} the flood: {listed} tok/s of the engine's time")
    whole = sum(totals[True]) / sum(totals[False])
    print(f"ratio {whole:.3f} (pairs: {', '.join(f'{ratio:.3f}' for ratio in ratios)})")
    print(f"the flood's share of the tokens: {', '.join(f'{share:.3f}' for share in shares)}")
    print(f"the slowest key over the fastest one, in each period: {', '.join(f'{s:.2f}' for s in spreads)}")


async def _taken(port: int, key: str, prompt: list[int], n_tokens: int) -> None:
    """One answer; while the server still counts those before it, again."""
    while True:
        with contextlib.suppress(SystemExit):
            await complete(port, prompt, n_tokens, key=key)
            return
        await asyncio.sleep(_LOOK_EVERY_S)  # between two looks


async def retry(port: int, keys: Keys, rounds: int, prompts: Prompts) -> None:
    """Print the time until a refused request is taken, over the promised time."""
    key, ratios = keys[RETRY], []
    random = np.random.default_rng(3)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
        for i in range(rounds):
            lengths = [int(n) for n in random.integers(200, 600, 2)]
            busy = [asyncio.create_task(_taken(port, key, prompts.new(40), n)) for n in lengths]
            await asyncio.sleep(float(random.uniform(0.2, 0.5)))
            promised, asked_at = 0.0, time.perf_counter()
            while True:
                body = {"prompt": prompts.new(8), "max_tokens": 1, "stream": True}
                async with client.stream("POST", "/v1/completions", json=body) as reply:
                    waited = time.perf_counter() - asked_at  # the headers come when it is taken
                if reply.status_code != 429:
                    break
                promised = promised or int(reply.headers["retry-after-ms"]) / 1000
                await asyncio.sleep(_LOOK_EVERY_S)  # before the next attempt
            await asyncio.gather(*busy)
            if i and promised:  # the first round is measured by nothing
                ratios.append(waited / promised)
    within = sum(0.5 <= ratio <= 1.5 for ratio in ratios)
    low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    spread = f"median {middle:.2f}, 80 % of them {low:.2f} to {high:.2f}"
    print(f"waited / promised: {spread}; within 50 %: {within} of {len(ratios)}")


def _make_keys(path: Path) -> Keys:
    limits = {RETRY: KeyLimits(max_sequences=2)}
    return {
        name: add_key(path, name, [KeyScope.INFERENCE], limits=limits.get(name, KeyLimits()))
        for name in (*NINE, FLOOD, RETRY)
    }


async def _measure(
    port: int, keys: Keys, parts: Sequence[str], rounds: int, answers: int, n_polite: int
) -> None:
    prompts = Prompts()
    if "timing" in parts:
        await timing(port, keys, rounds, prompts)
    if "flood" in parts:
        await flood(port, keys, max(rounds // 10, 1), answers, prompts, n_polite)
    if "retry" in parts:
        await retry(port, keys, max(rounds // 2, 2), prompts)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("timing", "flood", "retry")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--answers", type=int, default=20, help="of each key in a period of the flood")
    parser.add_argument("--polite", action="store_true", help="the tenth key asks one by one between floods")
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or write_120m(folder / "120m-Q8_0.gguf")
        keys = _make_keys(folder / "keys.json")
        port = free_port()
        more = ("--keys-file", str(folder / "keys.json"), "--threads", "1")
        line = ours(model, port, n_ctx=16384, parallel=args.parallel, more=more)
        with running(line, port, folder / "log"):
            asyncio.run(_measure(port, keys, args.parts, args.rounds, args.answers, int(args.polite)))


if __name__ == "__main__":
    main()
