"""Compare tokens per second and time to the first token with other servers: same model, threads, slots, load.

    python -m bench.peers [--peer NAME | --checkout FOLDER] [--tokens 64] [--rounds 5] [--streams 1 8 16]
        [--model FILE]

The model is a random-weight llama of about 120 million parameters at Q8_0, unless a file is given. Both
servers stay up, and one light client asks them in turns over HTTP. llama.cpp without a server takes its turn
too: it is an upper bound for the servers. Every prompt is new, from its first token on if the peer takes
tokens. `example` and `llama_cpp.server` are the bindings' (bench/bindings.py). In the latter, new requests
interrupt running ones, which is its default, or wait: "in turn". With --checkout the peer is another version
of this project, a commit before a change for instance.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench import bindings
from bench.alone import Alone
from bench.load import Prompt, Stream, together
from bench.servers import free_port, llama_server, ours, running
from tools.random_model import write_120m

_N_CTX = 8192
OURS = "vram-llm"
CHECKOUT = "checkout"
INTERRUPTED = "llama_cpp.server"  # it shortens answers: only received tokens count
PEERS = {
    "llama-server": llama_server,
    INTERRUPTED: bindings.module_server,
    "llama_cpp.server in turn": bindings.patient_module_server,
    "example": bindings.example_server,
}
_BINDINGS = {INTERRUPTED, "llama_cpp.server in turn", "example"}


def prompts(random: np.random.Generator, n: int, *, as_text: bool = False) -> list[Prompt]:
    """`n` prompts of 28 to 68 random tokens; as text, three to eight words of some seven tokens each."""
    if as_text:
        return [" ".join(f"w{word}" for word in random.integers(0, 31_000, 3 + i % 6)) for i in range(n)]
    return [random.integers(300, 31_000, 28 + 8 * (i % 6)).tolist() for i in range(n)]


@contextlib.contextmanager
def both(
    peer: str, model: Path, folder: Path, n_ctx: int, parallel: int, checkout: Path | None = None
) -> Iterator[dict[str, int]]:
    """The ports of this server and the peer, running; the peer is `checkout`'s server if there is one."""
    with contextlib.ExitStack() as stack:
        ports = {}
        for name in (OURS, peer):
            port = free_port()
            line = PEERS.get(name, ours)(model, port, n_ctx=n_ctx, parallel=parallel)
            health, variables = "/health", dict(os.environ)
            if name in _BINDINGS:
                health, variables = bindings.HEALTH, bindings.environment()
            elif name == CHECKOUT:  # without a safe path `python -m` takes the version in the working folder
                variables |= {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
            ports[name] = stack.enter_context(running(line, port, folder / f"{name}.log", health, variables))
        yield ports


async def compare(ports: dict[str, int], alone: Alone, n_streams: int, n_tokens: int, rounds: int) -> None:
    """Print both servers' figures for `n_streams` streams, their ratio, and llama.cpp's figure alone."""
    random = np.random.default_rng(n_streams)
    as_text = "llama-server" not in ports and CHECKOUT not in ports
    rates: dict[str, list[float]] = {name: [] for name in ports}
    streams: dict[str, list[Stream]] = {name: [] for name in ports}
    ceilings = []
    for i in range(rounds + 1):
        for name in list(ports) if i % 2 else list(ports)[::-1]:
            rate, answers = await together(ports[name], prompts(random, n_streams, as_text=as_text), n_tokens)
            if name == INTERRUPTED:
                rate *= sum(len(stream.chunks) for stream in answers) / (n_streams * n_tokens)
            if i:  # the first round warms up
                rates[name].append(rate)
                streams[name] += answers
        ceilings.append(alone.rate(prompts(random, n_streams, as_text=as_text), n_tokens))
    for name in ports:
        listed = ", ".join(f"{rate:.0f}" for rate in rates[name])
        ttft_ms = statistics.median(stream.ttft_s for stream in streams[name]) * 1000
        print(
            f"{n_streams:>3} {name:<16} {statistics.median(rates[name]):7.1f} tok/s  "
            f"TTFT {ttft_ms:6.1f} ms  (rounds: {listed})"
        )
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    ttfts = [statistics.median(s.ttft_s for s in streams[name]) for name in ports]
    low, high = np.quantile(ratios, [0.25, 0.75])
    print(
        f"    ratio {statistics.median(ratios):21.3f}        TTFT {ttfts[0] / ttfts[1]:6.3f}     "
        f"(half of the ratios: {low:.3f} to {high:.3f})"
    )
    print(f"    llama.cpp alone  {statistics.median(ceilings[1:]):10.1f} tok/s", flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers = parser.add_mutually_exclusive_group()
    peers.add_argument("--peer", choices=list(PEERS), default="llama-server")
    peers.add_argument("--checkout", type=Path, help="another version of this project as the peer")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 16])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or write_120m(folder / "120m-Q8_0.gguf")
        alone = Alone(model, _N_CTX, max(args.streams))
        peer, checkout = (CHECKOUT, args.checkout.resolve()) if args.checkout else (args.peer, None)
        with both(peer, model, folder, _N_CTX, max(args.streams), checkout) as ports:
            for n_streams in args.streams:
                asyncio.run(compare(ports, alone, n_streams, args.tokens, args.rounds))


if __name__ == "__main__":
    main()
