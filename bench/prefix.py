"""The gain from a prefix that requests share, for a second request and for sixteen, on three kinds of model.

    python -m bench.prefix [--shared 2000] [--requests 16]

The models have full attention, recurrent layers or a sliding window, and a few million random weights each.
They run on the CPU, through the server, with reuse and then without it (`--cache-reuse 0`).
"""

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.load import complete, together
from bench.servers import free_port, ours, running
from tests.zoo import Model
from tests.zoo.loadable import dense, gemma3, nemotron_h, with_vocabulary, write_loadable

_MODELS: dict[str, Callable[[], Model]] = {
    "full attention": dense,
    "recurrent hybrid": nemotron_h,
    "sliding window": gemma3,
}
_N_OWN, _N_TOKENS = 50, 8  # of each request's prompt after the shared part, and of its answer
_N_VOCAB = 1200


async def waits(port: int, shared: int, tries: int) -> list[float]:
    """The second request's time to the first token over the first request's, for several new prefixes."""
    random, ratios = np.random.default_rng(1), []
    await complete(port, _tokens(random, 300), 2)
    for _ in range(tries):
        prefix = _tokens(random, shared)
        first, second = [await complete(port, prefix + _tokens(random, _N_OWN), _N_TOKENS) for _ in range(2)]
        ratios.append(second.ttft_s / first.ttft_s)
    return ratios


async def rate(port: int, shared: int, n_requests: int) -> float:
    """Requests per second of concurrent requests with one new prefix."""
    random = np.random.default_rng(2)
    prefix = _tokens(random, shared)
    prompts = [prefix + _tokens(random, _N_OWN) for _ in range(n_requests)]
    tokens_per_s, _ = await together(port, prompts, _N_TOKENS)
    return tokens_per_s / _N_TOKENS


def _tokens(random: np.random.Generator, n: int) -> list[int]:
    return list(map(int, random.integers(300, _N_VOCAB, n)))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=16)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, make in _MODELS.items():
            model = write_loadable(with_vocabulary(make()), folder / f"{kind}.gguf")
            rates = {}
            for reuse in ("32", "0"):
                port = free_port()
                line = ours(model, port, n_ctx=16384, parallel=8, more=("--cache-reuse", reuse))
                with running(line, port, folder / "log"):
                    if reuse != "0":
                        seen = asyncio.run(waits(port, args.shared, 3))
                    rates[reuse] = asyncio.run(rate(port, args.shared, args.requests))
            print(
                f"{kind:<17} second TTFT {statistics.median(seen):6.1%} of the first's   "
                f"{args.requests} requests: {rates['32']:.2f} and without reuse {rates['0']:.2f} a second, "
                f"{rates['32'] / rates['0']:.1f} times",
                flush=True,
            )


if __name__ == "__main__":
    main()
