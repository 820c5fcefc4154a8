"""Each attack in turn, from a process of its own, while an innocent client streams.

    python -m bench.attacks [--only NAME ...] [--quiet-s 3]

The model is a small llama with Llama's kind of vocabulary and a context of 262,144 tokens, on one thread:
with more, any other program makes the threads wait for each other. Per attack: the
largest gap of the innocent stream without and with it, the slowest /health, the growth of both processes'
memory after it, and the answers it got.
"""

import argparse
import asyncio
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bench.attacks import texts
from bench.attacks.every import ATTACKS, attack_in_process
from bench.attacks.watching import memory_mib, watching
from bench.servers import free_port, ours, running
from tools.random_model import write_llama

_N_CTX = 262_144
_AFTER_S = 2.0  # until memory is looked at


async def measure(port: int, name: str, attackers: ProcessPoolExecutor, quiet_s: float) -> str:
    """One attack. Returns a row of the table."""
    async with watching(port) as watched:
        while not watched.stream.chunks:
            await asyncio.sleep(0.05)  # until the stream has begun
        await asyncio.sleep(0.5)  # the stream settles
        memory, began = memory_mib(port), time.perf_counter()
        await asyncio.sleep(quiet_s)  # the gap without an attack is measured
        started = time.perf_counter()
        outcome = await asyncio.get_running_loop().run_in_executor(attackers, attack_in_process, name, port)
        ended = time.perf_counter()
        await asyncio.sleep(_AFTER_S)  # what the attack left becomes visible
        after = memory_mib(port)
    cells = [
        (ATTACKS[name].__doc__ or name).rstrip("."),
        f"{watched.gap_ms(began, started):,.0f}",
        f"{watched.gap_ms(started, ended):,.0f}",
        f"{watched.health_ms(started, ended):,.0f}",
        f"{after[0] - memory[0]:+,.0f}",
        f"{after[1] - memory[1]:+,.0f}",
        f"{ended - started:,.1f}",
        outcome,
        "; ".join(sorted(set(watched.errors))) or "none",
    ]
    return "| " + " | ".join(cells) + " |"


async def run(port: int, names: list[str], quiet_s: float) -> None:
    """Print the table."""
    print(
        "| attack | gap without, ms | gap with, ms | /health, ms | server, MiB | engine, MiB | s | answers | "
        "errors of the innocent |\n|---|---|---|---|---|---|---|---|---|"
    )
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=os.nice, initargs=(10,)) as attackers:
        for name in names:
            print(await measure(port, name, attackers, quiet_s), flush=True)


def main() -> None:
    """Serve the model and attack it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--quiet-s", type=float, default=3.0, help="seconds of the stream before each attack")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_llama(
            Path(folder) / "a.gguf", n_ctx_train=_N_CTX, n_vocab=32_000, chat_template=texts.TEMPLATE
        )
        port = free_port()
        command = ours(path, port, n_ctx=_N_CTX, parallel=16, more=("--threads", "1"))
        with running(command, port, Path(folder) / "log"):
            asyncio.run(run(port, options.only, options.quiet_s))


if __name__ == "__main__":
    main()
