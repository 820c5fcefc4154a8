"""Compare llama-server, run from `plan --emit llama-server` and `--emit env`, with the plan.

    python -m bench.emitted [--programs FOLDER] [--placements 6] [--seed 1]

Small models are placed at random over two and three RPC workers and the host, half of them with experts or
feed-forward weights of some layers elsewhere. llama-server and the workers
(ggml-rpc-server) are those that `python -m scripts.build_llama_server` built from the bindings' own source.
The layers' devices are read from llama-server's log. The bytes of a worker are read from its own log, and
those of the host from llama-server's log, to the hundredth of a MiB. This project's engine then loads the
same plan: llama-server's compute buffers must equal its own, and none may exceed the plan's. Exits with 1 if
a figure differs.
"""

import argparse
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import httpx
import msgspec

from bench.server_log import Held, held, layers, runs
from scripts.build_llama_server import built_programs
from tests.companions import write_lora
from tests.workers import free_ports
from tests.zoo.loadable import LOADABLE, with_vocabulary, write_loadable
from tools.random_model import write_llama
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.estimates import DeviceEstimate, HostEstimate
from vram_llm.planner.export.device_flags import exported_devices
from vram_llm.planner.export.formats import emit, to_json
from vram_llm.planner.overrides import Override
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import HOST, FlashAttention, Lora, Plan, Workload
from vram_llm.units import GIB, MIB
from vram_llm.workflows import detection, planning

FORMS = ("llama-server", "env")  # taken in turn
_START_IT = "start it with: "
_PATIENCE_S = 60.0
_LIMIT = 2 * GIB  # of each worker: they all report the whole host's memory
_OWN_LOAD = """
import sys
from pathlib import Path
import msgspec
from vram_llm.workflows import detection
from vram_llm.workflows import planning
from vram_llm.workflows import saved_plans
from vram_llm.llama.model import LoadedModel
uses = LoadedModel(saved_plans.load_plan(sys.argv[1])).memory_use()
sizes = {k: [u.weights_bytes, u.context_bytes, u.compute_bytes] for k, u in uses.items()}
print(msgspec.json.encode(sizes).decode())
"""


@dataclass
class Worker:
    """A running ggml-rpc-server, and its log of requested buffers."""

    endpoint: str
    log: Path


def models(folder: Path) -> dict[str, Path]:
    """Small models that differ in tensors and in memory."""
    made = {
        name: write_loadable(with_vocabulary(LOADABLE[model]()), folder / f"{name}.gguf")
        for name, model in {"window": "gemma3", "hybrid": "nemotron_h", "mla": "deepseek2"}.items()
    }
    return made | {
        "even": write_llama(folder / "even.gguf", n_ff=(256,) * 8, n_embd=128),
        "uneven": write_llama(folder / "uneven.gguf", n_ff=(1024, 1024, *[128] * 9), n_embd=128),
        "tied": write_llama(folder / "tied.gguf", n_ff=(512,) * 5, n_embd=256, tied=True, n_vocab=4000),
        "wide": write_llama(folder / "wide.gguf", n_ff=(512,) * 3, n_vocab=30000, n_embd=128),
        "rope": write_llama(folder / "rope.gguf", n_ff=(384,) * 13, n_embd=192, rope_freqs=True, n_head=6),
    }


def wish(draw: random.Random, n_workers: int, n_layers: int, adapter: Path) -> Workload:
    """A random dictated placement and context; one in four has an adapter."""
    kv_type, parallel = draw.choice(["f16", "q8_0", "f32"]), draw.choice([1, 4, 8])
    flash_attn = draw.choice(list(FlashAttention)) if kv_type != "q8_0" else FlashAttention.AUTO
    return Workload(
        n_ctx=draw.choice([512, 2048, 4096]),
        parallel=parallel,
        n_outputs_max=parallel,  # llama-server's own choice
        kv_type_k=kv_type,
        kv_type_v=kv_type,
        n_batch=draw.choice([512, 2048]),
        n_ubatch=draw.choice([128, 512]),
        pipeline_copies=draw.choice([True, True, False]),
        loras=draw.choice([(), (), (), (Lora(str(adapter), 0.5),)]),
        flash_attn=flash_attn,
        kv_unified=draw.choice([True, True, False]),
        swa_full=draw.choice([True, False]),
        reserve_bytes=0,
        tensor_split=TensorSplit(tuple(float(draw.randint(1, 9)) for _ in range(n_workers))),
        n_gpu_layers=draw.choice([n_layers + 1, n_layers + 1, draw.randint(2, n_layers)]),
        use_mmap=False,  # for a mapped file llama.cpp reports the span, not the used bytes
    )


def moved(draw: random.Random, of: ModelProfile, ids: Sequence[str]) -> tuple[Override, ...]:
    """In half of the plans, experts or feed-forward weights of some layers on other devices or the host."""
    part = draw.choice([LayerPart.EXPERTS, LayerPart.EXPERTS_DOWN] if of.n_expert else [LayerPart.FFN])
    layers = [layer.index for layer in of.layers if layer.tensors_of(part)]
    chosen = {layer: draw.choice([*ids, HOST, HOST]) for layer in layers if draw.random() < 0.6}
    if draw.random() < 0.5:
        return ()
    places = dict.fromkeys(chosen.values())
    return tuple(Override.of(part, [i for i in chosen if chosen[i] == place], place) for place in places)


@contextmanager
def running(programs: Path, folder: Path, n: int) -> Iterator[list[Worker]]:
    """`n` workers of one thread each, on free ports of the loopback."""
    with ExitStack() as stack:
        found = []
        for port in free_ports(n):
            log = folder / f"worker-{port}.log"
            command = [str(programs / "ggml-rpc-server"), "-H", "127.0.0.1", "-p", str(port), "-t", "1"]
            with log.open("wb") as out:
                environment = os.environ | {"GGML_RPC_DEBUG": "1"}
                process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
            stack.callback(end, process)
            found.append(Worker(f"127.0.0.1:{port}", log))
            wait_for(partial(listens, port), process, log)
        yield found


def listens(port: int) -> bool:
    """Whether a program listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def is_healthy(port: int) -> bool:
    """Whether llama-server has loaded its model."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


def wait_for(done: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until `done`. Raises SystemExit if `process` ends before that, or at the deadline."""
    deadline = time.monotonic() + _PATIENCE_S
    while not done():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args!r} did not come up: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)  # until the next check


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and wait for it."""
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve_as_emitted(plan: Plan, form: str, programs: Path, log: Path) -> str:
    """Run the emitted command until the model is loaded. Returns its log. Adds only a port and verbosity."""
    port = free_ports(1)[0]
    command = emit(plan, form)
    if form == "env":  # a remark names the flags that have no variable
        remark = next(line for line in command.splitlines() if _START_IT in line)
        command += "\n" + remark.partition(_START_IT)[2]
    start = command.rindex("\nllama-server ") + 1
    # exec: the shell gives its place to llama-server, so that ending the one ends the other
    command = f"{command[:start]}exec {command[start:]} --port {port} --verbosity 5"
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    with log.open("wb") as out:
        process = subprocess.Popen(["bash", "-c", command], env=environment, stdout=out, stderr=out)
    try:
        wait_for(partial(is_healthy, port), process, log)
    finally:
        end(process)
    return log.read_text(errors="replace")


def own_load(plan: Plan, folder: Path) -> dict[str, Held]:
    """The bytes that this program's engine holds for the same plan, by device id; in its own process."""
    saved = folder / "plan.json"
    saved.write_bytes(to_json(plan))
    done = subprocess.run([sys.executable, "-c", _OWN_LOAD, str(saved)], capture_output=True, check=True)
    return {name: Held(*sizes) for name, sizes in msgspec.json.decode(done.stdout).items()}


@dataclass
class Score:
    """Counts of equal figures, and the figures that differ."""

    equal: dict[str, int] = field(default_factory=dict)
    of: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def take(self, what: str, is_so: bool, detail: str) -> str:
        """Count one comparison; "=" or "!" for the table."""
        self.of[what] = self.of.get(what, 0) + 1
        self.equal[what] = self.equal.get(what, 0) + is_so
        if not is_so:
            self.wrong.append(f"{what}: {detail}")
        return "=" if is_so else "!"


def compare(
    name: str, plan: Plan, log: str, asked: dict[str, str], own: dict[str, Held], score: Score
) -> None:
    """Print a line for each device, and count equal figures."""
    endpoints = {device.id: device.endpoint for device in plan.devices}
    served, went = held(log, asked), layers(log)
    uses: list[DeviceEstimate | HostEstimate] = [*plan.estimate.devices, plan.estimate.host]
    names = dict(zip(plan.placement.device_order, exported_devices(plan).names, strict=True))
    for use, numbers in zip(uses, planned_layers(plan), strict=True):
        device_id = use.id if isinstance(use, DeviceEstimate) else HOST
        got = served[endpoints.get(device_id) or HOST]
        mine = own[device_id]
        there = went.get(names.get(device_id, "CPU"), [])
        at = f"{name}, {device_id}"
        exact = device_id != HOST
        marks = [
            score.take("layers", there == numbers, f"{at}: {runs(there)}, planned {runs(numbers)}"),
            score.take("weights", near(got.weights, use.weights_bytes, exact), f"{at}: {got}, planned {use}"),
            score.take("context", near(got.context, use.context_bytes, exact), f"{at}: {got}, planned {use}"),
            score.take(
                "compute as own engine", near(got.compute, mine.compute, False), f"{at}: {got}, {mine}"
            ),
            score.take(
                "compute foreseen", got.compute <= use.compute_bytes + MIB / 100, f"{at}: {got}, {use}"
            ),
        ]
        figures = " ".join(
            f"{size / MIB:9.3f}{mark}"
            for size, mark in zip((got.weights, got.context, got.compute), marks[1:4], strict=True)
        )
        print(f"{name:8} {device_id:5} {runs(there):>9}{marks[0]} {figures} {use.compute_bytes / MIB:9.3f}")


def near(found: float, planned: float, exact: bool) -> bool:
    """Whether figures are equal to the byte, or within a log's hundredths of a MiB."""
    return found == planned if exact else abs(found - planned) <= MIB / 100


def planned_layers(plan: Plan) -> list[list[int]]:
    """The layers of each device and last of the host, the output counted as a layer after all others."""
    placement, first = plan.placement, plan.placement.cpu_layers
    found = []
    for device, count in zip(placement.device_order, placement.layers_per_device, strict=True):
        output = [plan.model.n_layers] if placement.output_device == device else []
        found.append([*range(first, first + count), *output])
        first += count
    on_host = list(range(placement.cpu_layers))
    return [*found, [*on_host, plan.model.n_layers] if placement.output_device == HOST else on_host]


def main() -> int:
    """Print the table and the counts. Returns 1 if a figure differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", type=Path, help="folder of llama-server and ggml-rpc-server")
    parser.add_argument("--placements", type=int, default=6, help="of each model, and number of workers")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    programs = given.programs or built_programs()
    draw, score, n_plans = random.Random(given.seed), Score(), 0
    draw_moved = random.Random(f"{given.seed} moved")
    heads = "".join(f"{name:>11}" for name in ("layers", "weights", "context", "compute"))
    print(f"{'model':8} {'where':5}{heads} {'planned':>9}")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        files = models(folder)
        for n in (2, 3):
            with running(programs, folder, n) as workers:
                machine = detection.detect(rpc=[f"{worker.endpoint}@{_LIMIT}" for worker in workers])
                for name, path in files.items():
                    of = detection.analyze(str(path))
                    adapter = write_lora(folder / "adapter.gguf", path)
                    for number in range(given.placements):
                        workload = replace(
                            wish(draw, n, of.n_layers, adapter),
                            overrides=moved(draw_moved, of, [device.id for device in machine.devices]),
                            kv_offload=draw_moved.random() < 0.75,
                        )
                        plan = planning.plan(str(path), machine, workload)
                        seen = {worker.endpoint: worker.log.stat().st_size for worker in workers}
                        log = serve_as_emitted(plan, FORMS[number % 2], programs, folder / "server.log")
                        asked = {
                            w.endpoint: w.log.read_text(errors="replace")[seen[w.endpoint] :] for w in workers
                        }
                        compare(name, plan, log, asked, own_load(plan, folder), score)
                        n_plans += 1
    print(f"MiB held by llama-server; = as planned, ! not. Last column: compute as planned. {n_plans} plans")
    for what, n_of in score.of.items():
        print(f"{what}: equal {score.equal[what]} of {n_of}")
    print(*score.wrong, sep="\n")
    return 1 if score.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
