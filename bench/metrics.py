"""What scraping /metrics ten times a second costs, and how close its times are to those that clients see.

    python -m bench.metrics [--parts scraping times] [--pairs 8] [--answers 6] [--streams 8] [--model FILE]

Everything runs over HTTP on one server; the model is a ~120M-parameter llama at Q8_0, on one thread.

- scraping: `--streams` clients stream all the time. In every other period another program asks for /metrics
  ten times a second. The engine keeps to one processor, server and clients to the others. The figures are the
  tokens per second with it over those without: by the clock, by the engine's processor time, and by that of
  server and engine together. The server's processor time for a scrape is the difference between the periods.
- times: the sums of vLLM's histograms over a load run, over the sums of the same times by the clients' clock.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.load import Stream, complete, together
from bench.servers import free_port, ours, running
from tools.random_model import write_120m

_EVERY_S = 0.1
_N_TOKENS = 64
_N_PROMPT = 96
_SCRAPER = """
import http.client, sys, time
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))  # kept, as by Prometheus
while True:
    began = time.monotonic()
    connection.request("GET", "/metrics")
    connection.getresponse().read()
    print(flush=True)
    time.sleep(max(0.0, float(sys.argv[2]) - (time.monotonic() - began)))
"""


class Rates(NamedTuple):
    """Tokens per second of the clock, of the engine's processor time, and of server's and engine's."""

    wall: float
    engine: float
    both: float
    server_s: float  # processor time of the server in the period
    wall_s: float


class Prompts:
    """Prompts of random tokens, of which none begins like another."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(7)

    def new(self, n: int) -> list[int]:
        return [1, *map(int, self._random.integers(300, 32000, n - 1))]


def _engine_and_server() -> tuple[psutil.Process, psutil.Process]:
    processes = psutil.Process().children(recursive=True)
    engine = next(each for each in processes if "vram_llm.engine.worker" in each.cmdline())
    server = engine.parent()
    assert server is not None
    return engine, server


def _keep_apart() -> None:
    """Give the engine the first processor, and the others to server and clients: neither waits for these."""
    engine, server = _engine_and_server()
    first, *others = sorted(os.sched_getaffinity(0))
    for process, cores in ((engine, [first]), (server, others), (psutil.Process(), others)):
        for thread in process.threads():
            os.sched_setaffinity(thread.id, cores)


def _cpu_s() -> tuple[float, float]:
    """Processor time in seconds of the engine, and of the server."""
    times = [each.cpu_times() for each in _engine_and_server()]
    return times[0].user + times[0].system, times[1].user + times[1].system


async def _ask_on(port: int, n_answers: int, prompts: Prompts) -> None:
    for _ in range(n_answers):
        await complete(port, prompts.new(_N_PROMPT), _N_TOKENS)


async def _period(port: int, n_streams: int, n_answers: int, prompts: Prompts, *, scraped: bool) -> Rates:
    """Rates of a period in which each of the clients has `n_answers` answers."""
    command = [sys.executable, "-c", _SCRAPER, str(port), str(_EVERY_S)]
    scraper = subprocess.Popen(command, stdout=subprocess.PIPE) if scraped else None
    if scraper is not None and scraper.stdout is not None:
        scraper.stdout.readline()  # it has started
    began, (engine_s, server_s) = time.perf_counter(), _cpu_s()
    await asyncio.gather(*(_ask_on(port, n_answers, prompts) for _ in range(n_streams)))
    wall_s, (engine_end_s, server_end_s) = time.perf_counter() - began, _cpu_s()
    if scraper is not None:
        scraper.kill()
        scraper.wait()
    engine_s, server_s = engine_end_s - engine_s, server_end_s - server_s
    n_tokens = n_streams * n_answers * _N_TOKENS
    rates = n_tokens / wall_s, n_tokens / engine_s, n_tokens / (engine_s + server_s)
    return Rates(*rates, server_s, wall_s)


async def scraping(port: int, pairs: int, n_streams: int, n_answers: int) -> None:
    """Print rates with and without scraping."""
    _keep_apart()
    prompts = Prompts()
    await _period(port, n_streams, 1, prompts, scraped=False)  # warms up
    found: dict[bool, list[Rates]] = {False: [], True: []}
    for i in range(2 * pairs):
        scraped = i % 4 in (1, 2)  # without, with, with, without: the machine's drift counts for both
        found[scraped].append(await _period(port, n_streams, n_answers, prompts, scraped=scraped))
    names = ("the clock", "the engine's processor time", "the processor time of server and engine")
    for kind, name in enumerate(names):
        with_it, without = ([rates[kind] for rates in found[scraped]] for scraped in (True, False))
        ratios = [a / b for a, b in zip(with_it, without, strict=True)]
        print(
            f"tokens per second of {name}: {statistics.median(with_it):.0f} scraped, "
            f"{statistics.median(without):.0f} not; ratio {sum(with_it) / sum(without):.4f} "
            f"(pairs: {', '.join(f'{ratio:.3f}' for ratio in sorted(ratios))})"
        )
    server_s, wall_s = (sum(each[kind] for each in found[True]) for kind in (3, 4))
    more_ms = 1000 * (server_s - sum(each.server_s for each in found[False])) / (wall_s / _EVERY_S)
    print(
        f"the server's processor time for a scrape: {more_ms:.2f} ms, at most {wall_s / _EVERY_S:.0f} of them"
    )


def _sums(port: int) -> dict[str, float]:
    """The sums and counts of all histograms."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        text = reply.read().decode()
    families = text_string_to_metric_families(text)
    samples = (sample for family in families for sample in family.samples)
    return {sample.name: sample.value for sample in samples if sample.name.endswith(("_sum", "_count"))}


async def times(port: int, pairs: int, n_streams: int) -> None:
    """Print the histograms' sums over the clients'."""
    prompts, before = Prompts(), _sums(port)
    streams: list[Stream] = []
    for _ in range(pairs):
        _, answers = await together(port, [prompts.new(4 * _N_PROMPT) for _ in range(n_streams)], _N_TOKENS)
        streams += answers
    grown = {name: value - before[name] for name, value in _sums(port).items()}
    theirs = {
        "time_to_first_token_seconds": [stream.ttft_s for stream in streams],
        "inter_token_latency_seconds": [gap for stream in streams for gap in stream.gaps_s],
        "e2e_request_latency_seconds": [stream.chunks[-1] - stream.asked_at for stream in streams],
    }
    for name, seen in theirs.items():
        total, n = grown[f"vllm:{name}_sum"], round(grown[f"vllm:{name}_count"])
        print(
            f"{name}: {total:.3f} s by the server, {sum(seen):.3f} s by the clients, ratio "
            f"{total / sum(seen):.4f}; {n:,} and {len(seen):,} of them"
        )


async def _measure(port: int, parts: Sequence[str], pairs: int, answers: int, streams: int) -> None:
    if "scraping" in parts:
        await scraping(port, pairs, streams, answers)
    if "times" in parts:
        await times(port, pairs, streams)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("scraping", "times")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--answers", type=int, default=6, help="of each client in a period")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or write_120m(folder / "120m-Q8_0.gguf")
        port = free_port()
        line = ours(model, port, n_ctx=16384, parallel=args.streams, more=("--threads", "1"))
        with running(line, port, folder / "log"):
            asyncio.run(_measure(port, args.parts, args.pairs, args.answers, args.streams))


if __name__ == "__main__":
    main()
