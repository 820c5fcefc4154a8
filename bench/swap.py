"""Three models that fit two at a time: lost requests, swaps, the first token after a swap, a kill.

    python -m bench.swap [--requests 200] [--clients 6] [--rounds 5] [--size 120m] [--threads 2]
        [--part load kill swap] [--on host workers]

load: clients send requests for random models to a server, with streams running all the time. Every answer is
compared with the model's own. Loads are counted against the least possible (Belady) for the order in which
requests were served. The memory of the engines, or of the two RPC workers, is read all the time and compared
with the budget; memory-mapped weights count.

kill: streams of one model run while the engine of another is killed (kill -9) and restarts. The largest gap
between tokens is compared with that of the same streams without a kill.

swap: a fleet's server and llama-server's router (`--models-dir`, `--models-max 2`) run side by side on the
same files. One request at a time goes to each in turn, always for a model that is not resident there.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from bench import fleet_load
from bench.fleet_load import NAMES, PLACES, RESIDENT, planned
from bench.load import complete
from bench.servers import free_port, running
from scripts.build_llama_server import built_programs
from tools.random_model import write_llama, write_sized
from vram_llm.planner.fleet.fleet_json import fleet_to_json
from vram_llm.planner.types import Serving, Workload

_PAUSE_S = 4.0  # between requests of a server, of which none follows another at once
_PARTS = ("load", "kill", "swap")


def swap_times(files: dict[str, Path], folder: Path, rounds: int, threads: int) -> None:
    """Print the times to the first token after a swap, of both servers in turn."""
    n_ctx, parallel = 4096, 2
    port, other = free_port(), free_port()
    router = [
        str(built_programs() / "llama-server"), "--models-dir", str(folder / "models"),
        "--models-max", str(RESIDENT), "--port", str(other), "-c", str(n_ctx), "-np", str(parallel),
        "--kv-unified", "-t", str(threads), "-tb", str(threads), "--fit", "off",
    ]  # fmt: skip
    serving = Serving(slots_ram_bytes=0)
    workload = Workload(n_ctx=n_ctx, parallel=parallel, n_threads=threads, reserve_bytes=0, serving=serving)
    plan = folder / "plan.json"
    plan.write_bytes(fleet_to_json(planned(files, workload)))
    ours = [sys.executable, "-m", "bench.fleet_server", str(plan), str(port)]
    times: dict[str, list[float]] = {"vram-llm": [], "llama-server": []}
    with running(ours, port, folder / "ours.log"), running(router, other, folder / "router.log"):
        ports = {"vram-llm": port, "llama-server": other}
        asked: dict[str, list[str]] = {server: [] for server in ports}
        for i in range((rounds + 1) * len(NAMES)):
            for server in list(ports) if i % 2 else list(ports)[::-1]:
                name = absent_model(ports[server], asked[server])
                stream = asyncio.run(complete(ports[server], [1, 50, 60], 8, model=name))
                if i >= len(NAMES):  # the first round loads from the disk
                    times[server].append(stream.ttft_s)
                asked[server].append(name)
                time.sleep(_PAUSE_S)  # so that no request follows another at once
    print_swap_times(times)


def absent_model(port: int, asked: list[str]) -> str:
    """The model that a server's list shows as not loaded; of several, the one that was asked for longest ago.

    Raises SystemExit if all are loaded.
    """
    cards: list[Any] = httpx.get(f"http://127.0.0.1:{port}/models", timeout=60).json()["data"]
    absent = [name for name in NAMES if _status(cards, name) == "unloaded"]
    if not absent:
        raise SystemExit(f"the server on port {port} has loaded all models, and {RESIDENT} should fit")
    return min(
        absent, key=lambda name: max((i for i, other in enumerate(asked) if other == name), default=-1)
    )


def _status(cards: list[Any], name: str) -> str:
    """A model's status in a server's list; both servers use the same words."""
    return next(str(card["status"]["value"]) for card in cards if card["id"] == name)


def print_swap_times(times: dict[str, list[float]]) -> None:
    """Medians, and the ratio."""
    for server, seconds in times.items():
        listed = ", ".join(f"{second:.2f}" for second in sorted(seconds))
        print(f"swap: {server:<13} median {statistics.median(seconds):.3f} s  ({listed})")
    ratio = statistics.median(times["vram-llm"]) / statistics.median(times["llama-server"])
    print(f"  ratio {ratio:.3f}", flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each model in `swap`")
    parser.add_argument("--size", default="120m", help="of the models of `swap`")
    parser.add_argument("--part", nargs="+", choices=_PARTS, default=_PARTS)
    parser.add_argument("--on", nargs="+", choices=PLACES, default=PLACES, help="of `load` and `kill`")
    args = parser.parse_args()
    counts = {"n_requests": args.requests, "n_clients": args.clients, "rounds": args.rounds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        tiny = {each: write_llama(folder / f"{each}.gguf", seed=i) for i, each in enumerate(NAMES)}
        for place in args.on if {"load", "kill"}.intersection(args.part) else ():
            asyncio.run(fleet_load.measure(place, tiny, folder, args.part, **counts))
        if "swap" in args.part:
            sized = {
                each: write_sized(folder / "models" / f"{each}.gguf", args.size, 32_000, seed=i)
                for i, each in enumerate(NAMES)
            }
            swap_times(sized, folder, args.rounds, args.threads)


if __name__ == "__main__":
    main()
