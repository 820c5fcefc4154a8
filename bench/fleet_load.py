"""Three models that fit two at a time, behind a server: on the host, and on two RPC workers.

Requests come from OpenAI's SDK. The parts `load` and `kill` of bench.swap.
"""

import asyncio
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from bench.servers import free_port, running
from tests.workers import await_listening, free_ports, worker_process
from vram_llm.planner.fleet.fleet_json import fleet_to_json
from vram_llm.planner.fleet.types import FleetModelSpec, FleetPlan, FleetSpec
from vram_llm.planner.types import HOST, FlashAttention, Serving, Workload
from vram_llm.units import format_bytes
from vram_llm.workflows.detection import detect
from vram_llm.workflows.fleet_planning import plan_fleet

NAMES = ("chat", "coder", "writer")
RESIDENT = 2
PLACES = ("host", "workers")
_EXACT = Workload(  # an answer is the same whichever requests share its batch
    n_ctx=4096, parallel=8, n_threads=1, reserve_bytes=0, flash_attn=FlashAttention.OFF,
    kv_type_k="f32", kv_type_v="f32", serving=Serving(slots_ram_bytes=0),
)  # fmt: skip
_PROMPT = [1, 50, 60]
_LENGTHS = (30, 60, 90, 120)
_LOOK_S = 0.1
_MARGIN = 10  # a tenth
_TIMEOUT_S = 600.0


def least_loads(order: Sequence[str], resident: frozenset[str], sets: Sequence[frozenset[str]]) -> int:
    """The least loads that serve requests in this order, if models are resident together only in `sets`.

    With sets of any n models it is that of Belady's rule, which replaces the model needed latest.
    """
    costs = {resident: 0}
    for name in order:
        after: dict[frozenset[str], int] = {}
        for held, n_loads in costs.items():
            for kept in [held] if name in held else [held & each | {name} for each in sets if name in each]:
                cost = n_loads + (name not in held)
                after[kept] = min(cost, after.get(kept, cost))
        costs = after
    return min(costs.values())


# -- the server ------------------------------------------------------------------------------------


def planned(files: Mapping[str, Path], workload: Workload = _EXACT) -> FleetPlan:
    """A plan of models on the host, with memory for RESIDENT of them."""
    machine = replace(detect(), devices=())
    sizes = [model.uses[HOST] for model in plan_fleet(_spec(files, workload), machine).models]
    budget = sum(sorted(sizes)[-RESIDENT:]) + min(sizes) // 2
    host = replace(machine.host, available_bytes=budget)
    return plan_fleet(_spec(files, workload), replace(machine, host=host))


def planned_on_workers(files: Mapping[str, Path], workers: Sequence[str]) -> FleetPlan:
    """A plan of models on two workers, each of which has memory for one: the last two models share one."""
    machine = detect(rpc=workers)
    first, second = (device for device in machine.devices if device.endpoint in workers)
    pins = dict(zip(files, (first.id, second.id, second.id), strict=True))
    whole = replace(machine, devices=(first, second))
    models = plan_fleet(_spec(files, _EXACT, pins), whole).models
    most = max(model.uses[pins[model.spec.name]] for model in models)
    budget = most + most // _MARGIN  # places are found by the analytic meter, which errs on the high side
    devices = tuple(replace(each, free_bytes=budget, total_bytes=budget) for each in whole.devices)
    return plan_fleet(_spec(files, _EXACT, pins), replace(machine, devices=devices))


def _spec(files: Mapping[str, Path], workload: Workload, pins: Mapping[str, str] | None = None) -> FleetSpec:
    models = (
        FleetModelSpec(
            name=name, source=str(path), workload=workload, devices=(pins[name],) if pins else None
        )
        for name, path in files.items()
    )
    return FleetSpec(models=tuple(models))


@dataclass(slots=True)
class ServedModels:
    """A server, and the processes in which its models have their memory."""

    url: str
    plan: FleetPlan
    workers: Mapping[str, int]  # process ids by device id; empty: the engines have the memory
    idle: Mapping[str, int]  # bytes of the workers before the first load
    peaks: dict[str, int] = field(default_factory=dict)  # bytes by device id or "host"

    def status(self) -> Any:
        """GET /status."""
        return httpx.get(f"{self.url}/status", timeout=_TIMEOUT_S).json()

    def pids(self) -> dict[str, int]:
        """Process ids of the engines, by model."""
        return {each["id"]: each["pid"] for each in self.status()["models"] if each["pid"] is not None}

    def resident(self) -> frozenset[str]:
        """The names of the models that are resident."""
        return frozenset(each["id"] for each in self.status()["models"] if each["state"] == "resident")

    def n_loads(self) -> int:
        """Loads of all models since the start."""
        return sum(each["n_loads"] for each in self.status()["models"])

    def order(self, order: str, model: str) -> None:
        """POST /models/ORDER."""
        httpx.post(f"{self.url}/models/{order}", json={"model": model}, timeout=_TIMEOUT_S).raise_for_status()


@contextmanager
def served(place: str, files: Mapping[str, Path], folder: Path) -> Iterator[ServedModels]:
    """A server of the models on the host, or on two workers, until the end of the block."""
    if place == "host":
        with _serving(planned(files), {}, folder) as models:
            yield models
        return
    ports = free_ports(RESIDENT)
    command = [sys.executable, "-m", "vram_llm", "worker", "--threads", "1", "--cache-size", "0", "--listen"]
    endpoints = [f"127.0.0.1:{port}" for port in ports]
    with (
        worker_process([*command, endpoints[0]]) as first,
        worker_process([*command, endpoints[1]]) as second,
    ):
        for endpoint, process in zip(endpoints, (first, second), strict=True):
            await_listening(endpoint, process)
        plan = planned_on_workers(files, endpoints)
        pids = dict(zip(endpoints, (first.pid, second.pid), strict=True))
        workers = {device.id: pids[device.endpoint or ""] for device in plan.devices}
        with _serving(plan, workers, folder) as models:
            yield models


@contextmanager
def _serving(plan: FleetPlan, workers: Mapping[str, int], folder: Path) -> Iterator[ServedModels]:
    path, port = folder / "plan.json", free_port()
    path.write_bytes(fleet_to_json(plan))
    command = [sys.executable, "-m", "bench.fleet_server", str(path), str(port)]
    idle = {device: _own_bytes(pid) for device, pid in workers.items()}
    with running(command, port, folder / "server.log"):
        yield ServedModels(f"http://127.0.0.1:{port}", plan, workers, idle)


@asynccontextmanager
async def _watching(models: ServedModels) -> AsyncIterator[None]:
    """Read the memory again and again within the block: the workers', or that of all engines together."""

    async def watch() -> None:
        while True:
            if models.workers:
                used = {each: _own_bytes(pid) - models.idle[each] for each, pid in models.workers.items()}
            else:
                pids = (await asyncio.to_thread(models.pids)).values()
                used = {HOST: sum(map(_own_bytes, pids))}
            for device, n_bytes in used.items():
                models.peaks[device] = max(models.peaks.get(device, 0), n_bytes)
            await asyncio.sleep(_LOOK_S)  # between two readings

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def _own_bytes(pid: int) -> int:
    """The memory of a process and those below it; of pages that they share, their share."""
    used = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                used += each.memory_full_info().pss
    return used


# -- requests --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, with the name that the server gave its model, and the times of its chunks."""

    text: str
    model: str
    times: tuple[float, ...]

    @property
    def largest_gap_s(self) -> float:
        """The largest time between two chunks."""
        return max(after - before for before, after in pairwise(self.times))


async def answered(
    client: openai.AsyncOpenAI, model: str, n: int, on_first: Callable[[], None] = lambda: None
) -> Answer:
    """A greedy answer of `n` tokens, as a stream. Raises the SDK's errors, EOFError for a short answer."""
    stream = await client.completions.create(
        model=model, prompt=_PROMPT, max_tokens=n, temperature=0, stream=True,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
    )  # fmt: skip
    text, name, times, n_tokens = "", "", list[float](), 0
    async for chunk in stream:
        if chunk.choices:
            text, name = text + chunk.choices[0].text, chunk.model
            times.append(time.perf_counter())
            if len(times) == 1:
                on_first()
        if chunk.usage is not None:
            n_tokens = chunk.usage.completion_tokens
    if n_tokens != n:
        raise EOFError(f"{n_tokens} of {n} tokens")
    return Answer(text, name, tuple(times))


def _sdk(models: ServedModels) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{models.url}/v1", api_key="none", max_retries=0, timeout=_TIMEOUT_S)


# -- load ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """Counts of answers, the order in which models were served, and the waits for first tokens."""

    counts: Counter[str] = field(default_factory=Counter)
    order: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)


async def under_load(models: ServedModels, place: str, n_requests: int, n_clients: int) -> None:
    """Print what becomes of requests for random models, with streams all the time."""
    draw = random.Random(20)
    asked = [(draw.choice(NAMES), draw.choice(_LENGTHS)) for _ in range(n_requests)]
    async with _sdk(models) as client:
        alone = {(name, n): (await answered(client, name, n)).text for name in NAMES for n in _LENGTHS}
        resident, n_loads, outcome = models.resident(), models.n_loads(), Outcome()
        pending = asked[::-1]

        async def one_client() -> None:
            while pending:
                await _ask(client, *pending.pop(), alone, outcome)

        began = time.perf_counter()
        async with _watching(models):
            await asyncio.gather(*(one_client() for _ in range(n_clients)))
        seconds = time.perf_counter() - began
    n_loads = models.n_loads() - n_loads
    counts = dict(outcome.counts)
    print(f"load on {place}: {n_requests} requests of {n_clients} clients in {seconds:.1f} s: {counts}")
    least = least_loads(outcome.order, resident, models.plan.sets)
    in_order = least_loads([name for name, _ in asked], resident, models.plan.sets)
    together = "; ".join(", ".join(sorted(each)) for each in models.plan.sets)
    print(
        f"  loads {n_loads}, least possible in the order of service {least} "
        f"(x {n_loads / max(least, 1):.2f}), in the order of arrival {in_order}; fit together: {together}"
    )
    median, longest = statistics.median(outcome.waits_s) * 1000, max(outcome.waits_s)
    print(f"  time to the first token: median {median:.0f} ms, longest {longest:.2f} s")
    print(f"  {_memory(models)}", flush=True)


async def _ask(
    client: openai.AsyncOpenAI, name: str, n: int, alone: Mapping[tuple[str, int], str], outcome: Outcome
) -> None:
    """Send a request and count its outcome."""
    began = time.perf_counter()
    try:
        answer = await answered(client, name, n, partial(outcome.order.append, name))
    except (openai.OpenAIError, httpx.HTTPError, EOFError) as error:
        outcome.counts[f"lost ({error})"] += 1
        return
    outcome.waits_s.append(answer.times[0] - began)
    whose = [other for other in NAMES if answer.text == alone[other, n]]
    is_right = whose == [name] and answer.model == name
    outcome.counts["right" if is_right else f"answered by {answer.model} {whose}, not {name}"] += 1


def _memory(models: ServedModels) -> str:
    """The memory read during the load against the budgets, and whether the buffers are those planned."""
    budgets = models.plan.budgets
    peaks = "; ".join(
        f"{device} at most {format_bytes(peak)} of {format_bytes(budgets[device])}"
        for device, peak in sorted(models.peaks.items())
    )
    buffers = []
    for device in models.status()["devices"]:
        measured = device["measured"]
        if measured is not None and device["id"] in models.workers:
            n_bytes, budget = sum(measured.values()), budgets[device["id"]]
            verdict = "within" if n_bytes <= budget else "OVER"
            buffers.append(f"{device['id']} {n_bytes:,} bytes of buffers, {verdict} its budget of {budget:,}")
    return "; ".join(["memory: " + peaks, *buffers])


# -- kill -9 ---------------------------------------------------------------------------------------


async def under_kills(models: ServedModels, place: str, rounds: int) -> None:
    """Print the largest gaps of streams while the engine of another model is killed."""
    gaps: dict[bool, list[float]] = {True: [], False: []}
    back: list[float] = []
    streaming, killed = sorted(next(each for each in models.plan.sets if len(each) == RESIDENT))
    async with _sdk(models) as client:
        for i in range(2 * rounds):
            kills = i % 2 == 1
            for name in (streaming, killed):
                await answered(client, name, 8)
            pid, begun = models.pids()[killed], [asyncio.Event(), asyncio.Event()]
            streams = [asyncio.create_task(answered(client, streaming, 700, event.set)) for event in begun]
            for event in begun:
                await event.wait()
            if kills:
                began = time.perf_counter()
                os.kill(pid, signal.SIGKILL)
                await answered(client, killed, 8)
                back.append(time.perf_counter() - began)
            gaps[kills] += [(await stream).largest_gap_s for stream in streams]
            if kills:  # its next engine has no deaths: after a few it is given up, as it should be
                models.order("unload", killed)
                while killed in models.pids():
                    await asyncio.sleep(_LOOK_S)  # between two looks
    for kills, found in gaps.items():
        listed = ", ".join(f"{gap * 1000:.0f}" for gap in found)
        which = "with a kill" if kills else "without one"
        print(f"kill on {place}: largest gap {which}: {max(found) * 1000:.0f} ms ({listed})")
    print(f"  the killed model answers again after {statistics.median(back):.2f} s", flush=True)


async def measure(
    place: str, files: Mapping[str, Path], folder: Path, parts: Sequence[str], **counts: int
) -> None:
    """Run the parts `load` and `kill` in one place."""
    with served(place, files, folder) as models:
        if "load" in parts:
            await under_load(models, place, counts["n_requests"], counts["n_clients"])
        if "kill" in parts:
            await under_kills(models, place, counts["rounds"])
