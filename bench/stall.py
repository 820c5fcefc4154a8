"""The gaps in other streams while a long prompt is computed, here and in llama-server.

    python -m bench.stall [--streams 8] [--prompt 6000]

Eight streams decode when a 6,000-token prompt arrives. Measured are the gaps between the streams' tokens from
its arrival to its first token, and the time to this first token. The model is a ~120M-parameter llama at Q8_0
on the CPU; both servers run over HTTP, one after the other.
"""

import argparse
import asyncio
import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.load import Stream, complete
from bench.servers import free_port, llama_server, ours, running
from tools.random_model import write_120m

OURS, THEIRS = "vram-llm", "llama-server"
_LEAD_S = 2.0  # time in which the streams decode alone


@dataclass(frozen=True)
class Stall:
    """Gaps between tokens while the long prompt was computed, and its time to the first token, in seconds."""

    gaps_s: list[float]
    ttft_s: float

    @property
    def p99_s(self) -> float:
        """The 99th percentile of the gaps."""
        return float(np.percentile(self.gaps_s, 99))


async def measure(port: int, n_streams: int, n_prompt: int) -> Stall:
    """Start the streams, then the prompt."""
    random = np.random.default_rng(5)

    def prompt(n: int) -> list[int]:
        return [1, *map(int, random.integers(300, 32000, n - 1))]

    await complete(port, prompt(200), 4)  # warms up
    streams = [Stream(0.0) for _ in range(n_streams)]
    tasks = [asyncio.create_task(complete(port, prompt(32), 1000, into=stream)) for stream in streams]
    await asyncio.sleep(_LEAD_S)  # the streams decode by then
    long = await complete(port, prompt(n_prompt), 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    begun, done = long.asked_at, long.chunks[0]
    gaps = [
        after - before
        for stream in streams
        for before, after in zip(stream.chunks, stream.chunks[1:], strict=False)
        if after > begun and before < done
    ]
    return Stall(gaps, long.ttft_s)


def report(name: str, stall: Stall) -> None:
    """Print one server's figures."""
    print(
        f"{name:<13} gaps: P50 {np.median(stall.gaps_s):6.3f} s  P99 {stall.p99_s:6.3f} s  "
        f"most {max(stall.gaps_s):6.3f} s   long prompt's TTFT {stall.ttft_s:6.2f} s",
        flush=True,
    )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=6000)
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_120m(folder / "120m-Q8_0.gguf")
        for server, command in ((THEIRS, llama_server), (OURS, ours)):
            port = free_port()
            line = command(model, port, n_ctx=16384, parallel=args.streams + 1)
            with contextlib.ExitStack() as stack:
                stack.enter_context(running(line, port, folder / f"{server}.log"))
                found[server] = asyncio.run(measure(port, args.streams, args.prompt))
            report(server, found[server])
    p99, ttft = (
        found[OURS].p99_s / found[THEIRS].p99_s,
        found[OURS].ttft_s / found[THEIRS].ttft_s,
    )
    print(f"ratio         P99 gap {p99:.3f}   TTFT {ttft:.2f}")


if __name__ == "__main__":
    main()
