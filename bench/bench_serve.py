"""What `bench serve` finds on a server of known latencies, and what it adds to them with 256 streams.

    python -m bench.bench_serve [--streams 256] [--tokens 400]

The server is a process of its own on another processor; this one keeps to one. Each piece of its answers is
the time at which it was written, on the clock that both share: the time that a piece takes to be noticed is
known for each. It includes the server's own write and the kernel. Streams write at their own times, or all
together as an engine's do.
"""

import argparse
import asyncio
import os
import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import uvloop

from bench.servers import free_port, running
from vram_llm.bench.arrivals import LoadShape
from vram_llm.bench.load_test import LoadResult, LoadTest, LoadWatch, run_test
from vram_llm.bench.metrics import metrics_of
from vram_llm.bench.random_prompts import RandomPrompts
from vram_llm.bench.run_load import LoadRun
from vram_llm.bench.stream_client import StreamClient

TTFT_MS, ITL_MS = 200.0, 20.0
FEW, FEW_TOKENS = 8, 100
ALL_PROCESSORS = sorted(os.sched_getaffinity(0))


def measured(port: int, n_streams: int, n_tokens: int) -> tuple[LoadResult, float]:
    """All streams at once, each at a time of its own; and the processor time of this process, in seconds."""
    test = LoadTest(
        dataset=RandomPrompts(input_tokens=16, output_tokens=n_tokens),
        n_prompts=n_streams,
        n_warmups=1,
        shape=LoadShape(max_concurrency=n_streams, request_rate=n_streams / (2 * ITL_MS / 1000)),
    )
    spent = 0.0

    def on_stage(name: str, _n: int) -> None:
        nonlocal spent
        spent = processor_s()

    async def work() -> LoadResult:
        client = StreamClient(f"http://127.0.0.1:{port}", {})
        try:
            return await run_test(client, test, LoadWatch(on_stage))
        finally:
            client.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(work())
    return result, processor_s() - spent


def processor_s() -> float:
    """Seconds that this process has computed."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def waited_s() -> float:
    """Seconds that this process could have computed while others had the processor."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


def as_written(run: LoadRun) -> LoadRun:
    """The same run with the times at which the server wrote each piece."""
    return replace(
        run,
        outcomes=tuple(
            replace(outcome, token_times=[float(time) for time in outcome.text.split()])
            for outcome in run.outcomes
        ),
    )


def row(result: LoadResult, in_steps: bool) -> str:
    """Medians of the latencies: found here, as written by the server, and how far off, in percent."""
    written = metrics_of(as_written(result.run)).latencies
    cells = []
    for name in ("ttft", "tpot", "itl"):
        found_ms, written_ms = result.metrics.latencies[name].median_ms, written[name].median_ms
        off = f"{found_ms / written_ms - 1:+.2%} of what was written"
        asked_ms = TTFT_MS if name == "ttft" else ITL_MS
        if not (in_steps and name == "ttft"):  # a step begins later than the request
            off += f", {found_ms / asked_ms - 1:+.2%} of what was asked for"
        cells.append(f"    {name} {found_ms:.2f} ms ({off})")
    return "\n".join(cells)


def added_ms(run: LoadRun) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Milliseconds from the writing of each piece to its arrival here."""
    pairs = zip(run.outcomes, as_written(run).outcomes, strict=True)
    return (
        np.concatenate([np.array(here.token_times) - np.array(there.token_times) for here, there in pairs])
        * 1000
    )


def show(n_streams: int, n_tokens: int, *, in_steps: bool) -> None:
    """Print the figures of one load."""
    mine, *others = ALL_PROCESSORS
    os.sched_setaffinity(0, others or [mine])  # the server's, which starts from here
    port = free_port()
    command = [
        sys.executable, "-m", "tests.bench.timed_server", "--port", str(port), "--ttft-ms", str(TTFT_MS),
        "--itl-ms", str(ITL_MS), *(["--in-steps"] if in_steps else []),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, running(command, port, Path(folder) / "log", "/v1/models"):
        os.sched_setaffinity(0, [mine])
        before_s = waited_s()
        result, spent_s = measured(port, n_streams, n_tokens)
        others_s = waited_s() - before_s
    added = added_ms(result.run)
    when = "written together" if in_steps else "each at its own times"
    print(f"{n_streams} streams, {when}, {result.metrics.failed} failed\n{row(result, in_steps)}")
    median, p99 = np.percentile(added, [50, 99])
    print(
        f"    a piece is noticed after {median:.3f} ms (median), {p99:.2f} ms (P99)"
        f"; {result.metrics.output_tokens_per_s:,.0f} pieces/s; {spent_s / result.run.duration_s:.0%} of one "
        f"processor, {spent_s / len(added) * 1e6:.0f} us a piece; it waited "
        f"{others_s / result.run.duration_s:.0%} of the time for other programs"
    )


def main() -> None:
    """Print a load of few streams and one of many, both ways of writing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=400)
    given = parser.parse_args()
    for n_streams, n_tokens in ((FEW, FEW_TOKENS), (given.streams, given.tokens)):
        for in_steps in (False, True):
            show(n_streams, n_tokens, in_steps=in_steps)


if __name__ == "__main__":
    main()
