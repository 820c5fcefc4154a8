"""Three models that fit two at a time: lost requests, swaps, the first token after a swap, a kill.

    python -m bench.swap [--requests 200] [--clients 6] [--rounds 5] [--size 120m] [--threads 2]
        [--part load swap kill]

load: clients send requests for random models to a fleet in this process, with streams running all the time.
Every answer is compared with the model's own. Loads are counted against the least possible: Belady's rule
(replace the model needed latest) on the order in which requests were served. The engines' memory is read
all the time and compared with the budget; memory-mapped weights count.

swap: a fleet's server and llama-server's router (`--models-dir`, `--models-max 2`) run side by side on the
same files. One request at a time goes to each in turn, always for the model that is not resident.

kill: streams of one model run while the engine of another is killed and restarts. The largest gap between
tokens is compared with that of the same streams without a kill.
"""

import argparse
import asyncio
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import psutil

from bench.load import complete
from bench.servers import free_port, running
from scripts.build_llama_server import built_programs
from tools.random_model import write_llama, write_sized
from vram_llm.engine.client import EngineClient
from vram_llm.engine.process import SpareProcess
from vram_llm.engine.request import Request, SamplingParams
from vram_llm.engine.supervisor import log
from vram_llm.fleet.manager import Fleet
from vram_llm.fleet.snapshots import FleetModel
from vram_llm.planner.fleet.fleet_json import fleet_to_json
from vram_llm.planner.fleet.types import FleetModelSpec, FleetPlan, FleetSpec
from vram_llm.planner.types import HOST, FlashAttention, Serving, Workload
from vram_llm.units import format_bytes
from vram_llm.workflows.detection import detect
from vram_llm.workflows.fleet_planning import plan_fleet

NAMES = ("chat", "coder", "writer")
_RESIDENT = 2
_PAUSE_S = 4.0  # between requests of a server, of which none follows another at once
_EXACT = Workload(  # an answer is the same whichever requests share its batch
    n_ctx=4096, parallel=8, n_threads=1, reserve_bytes=0, flash_attn=FlashAttention.OFF,
    kv_type_k="f32", kv_type_v="f32", serving=Serving(slots_ram_bytes=0),
)  # fmt: skip


def least_loads(order: Sequence[str], n_resident: int) -> int:
    """The least loads that serve requests in this order with `n_resident` models at a time, after Belady."""
    resident: set[str] = set()
    n_loads = 0
    for i, name in enumerate(order):
        if name in resident:
            continue
        n_loads += 1
        if len(resident) == n_resident:
            later = {other: _next_use(order, i, other) for other in resident}
            resident.remove(max(later, key=lambda other: later[other]))
        resident.add(name)
    return n_loads


def _next_use(order: Sequence[str], start: int, name: str) -> int:
    return next((i for i in range(start, len(order)) if order[i] == name), len(order))


# -- a fleet in this process -----------------------------------------------------------------------


def planned(files: dict[str, Path], workload: Workload = _EXACT) -> FleetPlan:
    """A plan of models with memory for _RESIDENT of them."""
    machine = replace(detect(), devices=())
    spec = FleetSpec(
        models=tuple(
            FleetModelSpec(name=name, source=str(path), workload=workload, preload=True)
            for name, path in files.items()
        )
    )
    sizes = [model.uses[HOST] for model in plan_fleet(spec, machine).models]
    budget = sum(sorted(sizes)[-_RESIDENT:]) + min(sizes) // 2
    host = replace(machine.host, available_bytes=budget)
    models = tuple(replace(model, preload=False) for model in spec.models)
    return plan_fleet(FleetSpec(models=models), replace(machine, host=host))


@dataclass(slots=True)
class Watch:
    """Loads, states and memory of a fleet."""

    loads: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    last: dict[str, str] = field(default_factory=dict)

    def note(self, model: FleetModel) -> None:
        """A model's state has changed."""
        before = self.last.get(model.name)
        self.last[model.name] = model.state
        if model.state == "loading" and before not in ("loading", "resident"):
            self.loads.append(model.name)
        if model.state == "failed":
            self.failures.append(f"{model.name}: {model.detail}")


@asynccontextmanager
async def fleet_of(plan: FleetPlan, watch: Watch) -> AsyncIterator[Fleet]:
    """A fleet that is ended with the block."""
    spare = SpareProcess(log)
    fleet = Fleet(
        plan,
        make_engine=lambda plans, name, on_state: EngineClient(plans[0], name, on_state, processes=spare),
        on_change=watch.note,
    )
    await fleet.start()
    reading = asyncio.create_task(_read_memory(fleet, watch))
    try:
        yield fleet
    finally:
        reading.cancel()
        await fleet.stop()
        await spare.close()


async def _read_memory(fleet: Fleet, watch: Watch) -> None:
    while True:
        pids = [engine.pid for name in NAMES if isinstance(engine := fleet.engine(name), EngineClient)]
        used = 0
        for pid in pids:
            with suppress(psutil.Error):
                used += psutil.Process(pid).memory_full_info().pss if pid is not None else 0
        watch.peak_bytes = max(watch.peak_bytes, used)
        await asyncio.sleep(0.1)  # between two readings


async def tokens_of(
    fleet: Fleet, name: str, request_id: str, n: int, order: list[str]
) -> list[tuple[int, float]]:
    """The tokens of a greedy answer with their times; `order` gets the model's name once it is served."""
    async with fleet.lease(name) as engine:
        order.append(name)
        sampling = SamplingParams(temperature=0)
        request = Request(id=request_id, prompt=(1, 50, 60), max_tokens=n, sampling=sampling, ignore_eos=True)
        tokens: list[tuple[int, float]] = []
        async for event in engine.generate(request):
            tokens += [(token, time.perf_counter()) for token in event.token_ids]
    return tokens


async def under_load(files: dict[str, Path], n_requests: int, n_clients: int) -> None:
    """Print the figures of the first part."""
    plan, watch = await asyncio.to_thread(planned, files), Watch()
    draw = random.Random(20)
    asked = [draw.choice(NAMES) for _ in range(n_requests)]
    lengths = [draw.randint(30, 120) for _ in asked]
    async with fleet_of(plan, watch) as fleet:
        alone = {}
        for name in NAMES:
            alone[name] = [token for token, _ in await tokens_of(fleet, name, f"alone-{name}", 120, [])]
        watch.loads.clear()
        resident = [model.name for model in fleet.snapshots() if model.state == "resident"]
        order: list[str] = []
        outcomes: Counter[str] = Counter()
        waits: list[float] = []
        pending = list(enumerate(asked))[::-1]

        async def client() -> None:
            while pending:
                i, name = pending.pop()
                began = time.perf_counter()
                try:
                    answer = await tokens_of(fleet, name, f"r{i}", lengths[i], order)
                except Exception as error:  # of any kind: it is counted as lost
                    outcomes[f"lost ({error})"] += 1
                    continue
                waits.append(answer[0][1] - began)
                tokens = [token for token, _ in answer]
                whose = [other for other in NAMES if tokens == alone[other][: lengths[i]]]
                outcomes["right" if whose == [name] else f"answered by {whose}, not {name}"] += 1

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(n_clients)))
        seconds = time.perf_counter() - began
    least = least_loads([*resident, *order], _RESIDENT) - len(resident)
    in_order = least_loads([*resident, *asked], _RESIDENT) - len(resident)
    print(f"load: {n_requests} requests of {n_clients} clients in {seconds:.1f} s: {dict(outcomes)}")
    print(
        f"  loads {len(watch.loads)}, least possible in the order of service {least} "
        f"(x {len(watch.loads) / max(least, 1):.2f}), in the order of arrival {in_order}"
    )
    low, high = statistics.median(waits), max(waits)
    print(f"  time to the first token: median {low * 1000:.0f} ms, longest {high:.2f} s")
    print(
        f"  failures {watch.failures or 'none'}; memory of the engines at most "
        f"{format_bytes(watch.peak_bytes)}, budget {format_bytes(plan.budgets[HOST])}",
        flush=True,
    )


# -- against llama-server ---------------------------------------------------------------------------


def swap_times(files: dict[str, Path], folder: Path, rounds: int, threads: int) -> None:
    """Print the times to the first token after a swap, of both servers in turn."""
    n_ctx, parallel = 4096, 2
    port, other = free_port(), free_port()
    router = [
        str(built_programs() / "llama-server"), "--models-dir", str(folder / "models"),
        "--models-max", str(_RESIDENT), "--port", str(other), "-c", str(n_ctx), "-np", str(parallel),
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
        for i in range((rounds + 1) * len(NAMES)):
            name = NAMES[i % len(NAMES)]  # the one that was used longest ago, so that both servers replace it
            for server in list(ports) if i % 2 else list(ports)[::-1]:
                stream = asyncio.run(complete(ports[server], [1, 50, 60], 8, model=name))
                if i >= len(NAMES):  # the first round loads from the disk
                    times[server].append(stream.ttft_s)
                time.sleep(_PAUSE_S)  # so that no request follows another at once
    print_swap_times(times)


def print_swap_times(times: dict[str, list[float]]) -> None:
    """Medians, and the ratio."""
    for server, seconds in times.items():
        listed = ", ".join(f"{second:.2f}" for second in sorted(seconds))
        print(f"swap: {server:<13} median {statistics.median(seconds):.3f} s  ({listed})")
    ratio = statistics.median(times["vram-llm"]) / statistics.median(times["llama-server"])
    print(f"  ratio {ratio:.3f}", flush=True)


# -- kill -9 ---------------------------------------------------------------------------------------


async def under_kills(files: dict[str, Path], rounds: int) -> None:
    """Print the largest gaps of streams while the engine of another model is killed."""
    plan = await asyncio.to_thread(planned, files)
    gaps: dict[bool, list[float]] = {True: [], False: []}
    back: list[float] = []
    async with fleet_of(plan, Watch()) as fleet:
        for name in NAMES[:2]:
            await tokens_of(fleet, name, name, 8, [])
        for i in range(2 * rounds):
            kills = i % 2 == 1
            streams = [
                asyncio.create_task(tokens_of(fleet, NAMES[0], f"s{i}-{j}", 700, [])) for j in range(2)
            ]
            await asyncio.sleep(0.3)  # both streams have begun
            if kills:
                engine = fleet.engine(NAMES[1])
                assert isinstance(engine, EngineClient)
                assert engine.pid is not None
                began = time.perf_counter()
                os.kill(engine.pid, signal.SIGKILL)
                await tokens_of(fleet, NAMES[1], f"k{i}", 8, [])
                back.append(time.perf_counter() - began)
            for stream in streams:
                times = [at for _, at in await stream]
                gaps[kills].append(max(b - a for a, b in pairwise(times)))
    for kills, found in gaps.items():
        listed = ", ".join(f"{gap * 1000:.0f}" for gap in found)
        which = "with a kill" if kills else "without one"
        print(f"kill: largest gap {which}: {max(found) * 1000:.0f} ms ({listed})")
    print(f"  the killed model answers again after {statistics.median(back):.2f} s", flush=True)


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
    parser.add_argument("--part", nargs="+", default=["load", "swap", "kill"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        tiny = {each: write_llama(folder / f"{each}.gguf", seed=i) for i, each in enumerate(NAMES)}
        if "load" in args.part:
            asyncio.run(under_load(tiny, args.requests, args.clients))
        if "kill" in args.part:
            asyncio.run(under_kills(tiny, args.rounds))
        if "swap" in args.part:
            sized = {
                each: write_sized(folder / "models" / f"{each}.gguf", args.size, 32_000, seed=i)
                for i, each in enumerate(NAMES)
            }
            swap_times(sized, folder, args.rounds, args.threads)


if __name__ == "__main__":
    main()
