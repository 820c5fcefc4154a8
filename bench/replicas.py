"""Two replicas of a model on two unequal workers: throughput, and prompts that begin alike.

    python -m bench.replicas [--rounds 4] [--requests 40] [--groups 6] [--of-each 16]

The workers are RPC workers (bench/rig.py): one has a core, the other is held to 50 % of the second core. The
engines and this program compute on what is left of the second core. Each engine is loaded once, and all ways
of asking take turns with the same engines, so that a noisy machine harms all of them.

throughput  requests of 16 to 64 random tokens and answers of 12 to 36, eight in flight for each engine. `full
            alone` and `half alone` ask one engine; `replicas` asks a ReplicaSet, which has no calibration and
            learns the speeds in the first round, which does not count; `round robin` asks the engines in turn
prefixes    several groups of requests, each with a beginning of its own, in random order: the tokens of
            prompts that were not computed, by the replicas and by the full worker alone

Two cores are enough, and root is needed. Other programs make the figures worse.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench.rig import measure_on, worker
from tools.random_model import write_llama
from vram_llm.engine.client import EngineClient
from vram_llm.engine.request import Request, SamplingParams, TokenEvent
from vram_llm.fleet.replicas import ReplicaSet
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.planner.types import Plan, Workload
from vram_llm.workflows import detection, planning

FULL_CORE, SLOW_CORE, SLOW_SHARE = 0, 1, 0.5
_PARALLEL, _VOCAB = 4, 8192
_IN_FLIGHT = 2 * _PARALLEL  # for each engine
_PREFIX, _TAIL, _PREFIX_ANSWER = 256, 8, 6
_WISH = Workload(n_ctx=8192, parallel=_PARALLEL, reserve_bytes=0)
GREEDY = SamplingParams(temperature=0)
FULL, HALF, BOTH, IN_TURN = "full alone", "half alone", "replicas", "round robin"

Ask = Callable[[Request], AsyncGenerator[TokenEvent, None]]


@dataclass
class Way:
    """A way of asking the engines, and its tokens per second in each round."""

    ask: Ask
    n_engines: int
    share: float  # of the requests, so that all ways take about as long
    rates: list[float] = field(default_factory=list)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--groups", type=int, default=6)
    parser.add_argument("--of-each", type=int, default=16)
    args = parser.parse_args()
    measure_on(SLOW_CORE)
    with (
        tempfile.TemporaryDirectory() as name,
        worker(FULL_CORE) as full,
        worker(SLOW_CORE, SLOW_SHARE) as half,
    ):
        os.environ[DATA_DIR_VARIABLE] = name
        model = write_llama(
            Path(name) / "model.gguf",
            n_embd=1024, n_ff=(2816,) * 5, n_head=8, n_head_kv=2, n_vocab=_VOCAB, n_ctx_train=8192,
        )  # fmt: skip
        plans = [planning.plan(str(model), detection.detect(rpc=[each]), _WISH) for each in (full, half)]
        asyncio.run(measure(plans, args))


async def measure(plans: Sequence[Plan], args: argparse.Namespace) -> None:
    """Load the engines, and print both tables."""
    engines = [EngineClient(plan, "bench") for plan in plans]
    replicas = ReplicaSet(engines)
    replicas.start()
    try:
        await asyncio.gather(*(engine.ready() for engine in engines))
        await throughput(engines, replicas, args.rounds, args.requests)
        await prefixes(engines[0], replicas, args.groups, args.of_each)
    finally:
        await replicas.stop()


async def throughput(
    engines: Sequence[EngineClient], replicas: ReplicaSet, rounds: int, n_requests: int
) -> None:
    """Let the ways take turns, and print their rates and ratios."""
    turns = itertools.cycle(engines)
    ways = {
        FULL: Way(engines[0].generate, 1, 2 / 3),
        HALF: Way(engines[1].generate, 1, 1 / 3),
        BOTH: Way(replicas.generate, 2, 1.0),
        IN_TURN: Way(lambda request: next(turns).generate(request), 2, 2 / 3),
    }
    for number in range(rounds + 1):
        for name, way in (*ways.items(),) if number % 2 else reversed((*ways.items(),)):
            random = Random(f"{number} {name}")
            requests = [_request(f"{name} {number} {i}", random) for i in range(int(n_requests * way.share))]
            answers, seconds = await answered(way.ask, requests, way.n_engines * _IN_FLIGHT)
            if number:  # the first round warms up
                way.rates.append(sum(last.completion_tokens for last in answers) / seconds)
    for name, way in ways.items():
        print(f"{name:12} {_median(way.rates, '6.1f')} tok/s", flush=True)
    rounds_of = list(zip(*(way.rates for way in ways.values()), strict=True))
    to_sum = [both / (full + half) for full, half, both, _ in rounds_of]
    to_turns = [both / in_turn for *_, both, in_turn in rounds_of]
    print(f"replicas to the sum of both alone   {_median(to_sum, '.2f')}")
    print(f"replicas to round robin             {_median(to_turns, '.2f')}")
    for status in replicas.status():
        assert status.step_s is not None
        assert status.token_s is not None
        print(
            f"measured on {', '.join(status.devices)}: a step takes {status.step_s * 1e3:.1f} ms and "
            f"{status.token_s * 1e3:.1f} ms a token; {status.n_requests} requests"
        )


async def prefixes(alone: EngineClient, replicas: ReplicaSet, n_groups: int, n_of_each: int) -> None:
    """Print the cached tokens of prompts that begin alike, by one engine and by the replicas."""
    asks: dict[str, Ask] = {FULL: alone.generate, BOTH: replicas.generate}
    cached = {}
    for name, ask in asks.items():
        random = Random(f"prefixes {name}")
        beginnings = [_tokens(random, _PREFIX) for _ in range(n_groups)]
        prompts = [beginning + _tokens(random, _TAIL) for beginning in beginnings * n_of_each]
        Random("order").shuffle(prompts)
        requests = [
            Request(id=f"{name} p{i}", prompt=(1, *prompt), max_tokens=_PREFIX_ANSWER, sampling=GREEDY)
            for i, prompt in enumerate(prompts)
        ]
        answers, seconds = await answered(ask, requests, _IN_FLIGHT)
        cached[name] = sum(last.cached_tokens for last in answers)
        n_prompt = sum(last.prompt_tokens for last in answers)
        print(
            f"{name:12} {cached[name]} of {n_prompt} prompt tokens were cached, {seconds:.1f} s", flush=True
        )
    print(f"cached by the replicas to those by one engine   {cached[BOTH] / cached[FULL]:.3f}")


async def answered(ask: Ask, requests: Sequence[Request], n_in_flight: int) -> tuple[list[TokenEvent], float]:
    """Answer all requests, `n_in_flight` at once. Returns the last event of each, and the seconds of all."""
    queue, found = iter(requests), list[TokenEvent]()

    async def work() -> None:
        for request in queue:
            *_, last = [event async for event in ask(request)]
            found.append(last)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(n_in_flight)))
    return found, time.perf_counter() - began


def _request(name: str, random: Random) -> Request:
    prompt = (1, *_tokens(random, random.randint(16, 64)))
    n_tokens = random.randint(12, 36)
    return Request(id=name, prompt=prompt, max_tokens=n_tokens, ignore_eos=True, sampling=GREEDY)


def _tokens(random: Random, n: int) -> list[int]:
    return [random.randrange(300, _VOCAB) for _ in range(n)]


def _median(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
