"""Two models on two Ray nodes of this computer, against plain processes of `vram-llm serve`.

Prints the throughput of both, measured in turns; what a rolling update and the loss of a node cost; and the
processor time that Ray takes while nothing is asked. Starts and ends the cluster itself. Under five minutes
on two idle cores.

    python -m bench.ray_nodes [--rounds N]
"""

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import ray_environment

MODELS = ("chat", "coder")
_PARALLEL = 4
_TOKENS = 96
_QUEUED = 12
_READY_S = 240.0


@dataclass(frozen=True)
class Run:
    """The outcome of one load."""

    tokens_per_s: float
    first_token_s: float  # the median


@dataclass(frozen=True)
class Answer:
    """A stream that has ended: its number of tokens, and the times of its chunks."""

    n_tokens: int
    times: list[float]


async def answer(
    url: str, model: str, prompt: str, n_tokens: int, on_first: Callable[[], None] = lambda: None
) -> Answer:
    """A greedy stream, by OpenAI's SDK. `on_first` is called at its first chunk."""
    from openai import AsyncOpenAI

    times, n_written = [], 0
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=_READY_S) as client:
        stream = await client.completions.create(
            model=model, prompt=prompt, max_tokens=n_tokens, temperature=0, stream=True,
            stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
        )  # fmt: skip
        async for chunk in stream:
            if chunk.choices:
                times.append(time.monotonic())
            if len(times) == 1:
                on_first()
            if chunk.usage is not None:
                n_written = chunk.usage.completion_tokens
    return Answer(n_written, times)


async def load(urls: dict[str, str], *, n_requests: int) -> Run:
    """All models at once, `_PARALLEL` streams of each."""
    began, gate = time.monotonic(), {model: asyncio.Semaphore(_PARALLEL) for model in MODELS}

    async def one(model: str, i: int) -> tuple[float, int]:
        async with gate[model]:
            started = time.monotonic()
            done = await answer(urls[model], model, f"{i} {model} and so on", _TOKENS)
            return done.times[0] - started, done.n_tokens

    done = await asyncio.gather(*(one(model, i) for i in range(n_requests) for model in MODELS))
    seconds = time.monotonic() - began
    return Run(sum(n for _, n in done) / seconds, statistics.median(first for first, _ in done))


def await_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Raises SystemExit."""
    import httpx

    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.2)  # between two looks
    raise SystemExit(f"{url} does not come up:\n{log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def serving(folder: Path, name: str, *arguments: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The URL of `vram-llm serve`, which is ready, and its process."""
    from bench.servers import free_port

    port, log = free_port(), folder / f"{name}.log"
    command = [sys.executable, "-m", "vram_llm", "serve", *arguments, "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        await_ready(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write_models(folder: Path) -> None:
    """Write both models, of 20 MB each."""
    from tools.random_model import write_llama

    for i, model in enumerate(MODELS):
        write_llama(folder / f"{model}.gguf", n_embd=512, n_ff=(1024,) * 8, n_head=8, n_head_kv=4, seed=i)


def fleet_file(folder: Path, *, replicas: int, n_ctx: int) -> Path:
    """A fleet of both models; the first has `replicas`, the second `n_ctx`."""
    entries = (
        f"  - name: {name}\n    source: {folder / name}.gguf\n"
        f"    n-ctx: {n_ctx if name == MODELS[1] else 2048}\n"
        f"    parallel: {_PARALLEL}\n    threads: 1\n    reserve-mib: 0\n    preload: true\n"
        f"    replicas: {replicas if name == MODELS[0] else 1}\n"
        for name in MODELS
    )
    path = folder / "fleet.yaml"
    path.write_text("models:\n" + "".join(entries))
    return path


@dataclass(frozen=True)
class Cluster:
    """A server on a cluster of two nodes, of which `lost` can be killed."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path
    kill_node: Callable[[], None]


@contextlib.contextmanager
def on_cluster(folder: Path, *, replicas: int = 1) -> Iterator[Cluster]:
    """Two nodes with a resource of memory each, and `serve --ray` on them.

    The first model has `replicas`, on a node each. All of it has ended after the block.
    """
    from ray.cluster_utils import Cluster as Nodes

    from vram_llm.fleet.ray.node_resources import HOST_MIB

    node = {
        "num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 * 2**20, "resources": {HOST_MIB: 4096},
    }  # fmt: skip
    nodes = Nodes(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        second = nodes.add_node(**node)
        file = fleet_file(folder, replicas=replicas, n_ctx=2048)
        with serving(folder, "ray", "--ray", nodes.address, "--config", str(file)) as (url, process):
            yield Cluster(
                url, process, folder / "ray.log", lambda: nodes.remove_node(second, allow_graceful=False)
            )
    finally:
        nodes.shutdown()


def cpu_share(seconds: float) -> float:
    """The processor time of all processes below this one while nothing is asked, as a share of a core."""
    import psutil

    def total() -> float:
        found = 0.0
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                found += times.user + times.system
        return found

    before = total()
    time.sleep(seconds)  # the time that is measured
    return (total() - before) / seconds


def served_lines(log: Path, model: str) -> int:
    """How many replicas of a model have connected so far."""
    return log.read_text(errors="replace").count(f"{model} is served from")


async def throughput(plain: dict[str, str], cluster: dict[str, str], rounds: int) -> None:
    """Both in turns. The first turn of each warms up."""
    runs: dict[str, list[Run]] = {"plain processes": [], "Ray": []}
    for turn in range(rounds + 1):
        order = list(zip(runs, (plain, cluster), strict=True))
        for name, urls in order if turn % 2 else reversed(order):
            done = await load(urls, n_requests=_PARALLEL if turn == 0 else 3 * _PARALLEL)
            if turn:
                runs[name].append(done)
    print(f"\n{'':18}{'tokens/s':>10}{'first token':>14}")
    best = {}
    for name, each in runs.items():
        best[name] = statistics.median(run.tokens_per_s for run in each)
        first = statistics.median(run.first_token_s for run in each)
        print(f"{name:18}{best[name]:10.0f}{first * 1e3:11.0f} ms")
    print(f"{'ratio':18}{best['Ray'] / best['plain processes']:10.3f}   (at least 0.9)")


async def rolling_update(cluster: Cluster, folder: Path) -> None:
    """Another replica for the first model, another context for the second, while both stream."""
    before = {model: served_lines(cluster.log, model) for model in MODELS}
    streams = [asyncio.create_task(answer(cluster.url, model, "go on", 1500)) for model in MODELS]
    await asyncio.sleep(1)  # both streams have begun
    fleet_file(folder, replicas=2, n_ctx=4096)
    began = time.monotonic()
    cluster.process.send_signal(signal.SIGHUP)
    counts = [(await stream).n_tokens for stream in streams]
    later = await answer(cluster.url, MODELS[1], "after the update", 8)
    wanted = {model: n + (2 if model == MODELS[0] else 1) for model, n in before.items()}
    while any(served_lines(cluster.log, model) < n for model, n in wanted.items()):
        await asyncio.sleep(0.2)  # between two looks
    print(
        f"\nrolling update: {time.monotonic() - began:.1f} s until all replicas are new; streams had "
        f"{counts} tokens of 1500, a request meanwhile {later.n_tokens} of 8"
    )


async def node_loss(cluster: Cluster) -> None:
    """The second node is killed while requests for both models run and wait."""
    begun = {model: asyncio.Event() for model in MODELS}
    asked = {
        model: [
            asyncio.create_task(answer(cluster.url, model, f"{i} {model}", _TOKENS, begun[model].set))
            for i in range(_QUEUED)
        ]
        for model in MODELS
    }
    for event in begun.values():
        await event.wait()
    killed = time.monotonic()
    await asyncio.to_thread(cluster.kill_node)
    print(f"\nnode killed with {_QUEUED} requests for each model, {_PARALLEL} slots a replica")
    for model, tasks in asked.items():
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        whole = [a.times for a in answers if isinstance(a, Answer) and a.n_tokens == _TOKENS]
        gaps = [
            max((b - a for a, b in zip([killed, *times], times, strict=False) if b > killed), default=0.0)
            for times in whole
        ]
        unbegun = [times for times in whole if times[0] > killed]
        first = min((times[0] - killed for times in unbegun), default=float("nan"))
        print(
            f"{model}: {len(whole)} of {_QUEUED} whole; {len(unbegun)} had not begun, the first of them "
            f"after {first:.2f} s, all after {max((t[-1] - killed for t in whole), default=0):.1f} s; "
            f"longest pause {max(gaps, default=0):.2f} s"
        )


async def measure(folder: Path, rounds: int) -> None:
    """Everything, in one run."""
    with contextlib.ExitStack() as stack:
        options = f"--n-ctx 2048 --parallel {_PARALLEL} --threads 1 --reserve-mib 0".split()
        plain = {
            name: stack.enter_context(serving(folder, name, str(folder / f"{name}.gguf"), *options))[0]
            for name in MODELS
        }
        idle = cpu_share(3)
        began = time.monotonic()
        cluster = stack.enter_context(on_cluster(folder))
        print(f"two nodes and two models are ready after {time.monotonic() - began:.1f} s")
        print(f"idle: Ray and its server take {cpu_share(5) - idle:.2f} cores")
        await throughput(plain, dict.fromkeys(MODELS, cluster.url), rounds)
        await rolling_update(cluster, folder)
        await node_loss(cluster)


def main() -> None:
    """Write the models, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    os.environ["PYTHONPATH"] = str(ray_environment.ROOT)
    from vram_llm.fleet.ray.ray_package import import_ray

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a text stream
    import_ray()  # before nodes are started: it sets their variables
    with tempfile.TemporaryDirectory(prefix="vram-llm-ray-") as name:
        folder = Path(name)
        write_models(folder)
        asyncio.run(measure(folder, rounds))


if __name__ == "__main__":
    ray_environment.enter()
    main()
