"""Plans as `vram-llm plan` prints them, kept as text files in golden/.

Each is printed for 40, 80 and 200 columns, in UTF-8 and in ASCII, on machines that are fixed here. After a
change that is meant, write the files anew and read the difference:

    python -m tests.cli.golden_plans
"""

import dataclasses
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

from tests import zoo
from tests.companions import write_mmproj
from vram_llm.cli.main import main
from vram_llm.errors import DoesNotFit
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Device, DeviceKind, Host, Machine, Source
from vram_llm.machine.what_if_host import HostDescription
from vram_llm.machine.worker_spec import WorkerSpec
from vram_llm.planner.types import Workload
from vram_llm.units import GIB
from vram_llm.workflows import detection, memory_floor, planning, quantizations

T = TypeVar("T")

FOLDER = Path(__file__).parent / "golden"
ENCODINGS = ("utf-8", "ascii")
WIDTHS = (40, 80, 200)
HOST = Host(name="desk", cores=8, total_bytes=64 * GIB, available_bytes=60 * GIB, cpu_name="Some CPU")
LOCAL = ("RTX 4080 Laptop", "2x RTX 3090 Ti")  # the cards of the computer, if no --gpu is given

PLANS = {
    "one_card": ["8b.gguf", "--gpu", "RTX 3090"],
    "three_unequal": ["49b.gguf"],
    "idle_cards": ["8b.gguf"],
    "cpu_layers": ["70b.gguf", "--gpu", "RTX 4090"],
    "experts": ["qwen.gguf", "--gpu", "2x RTX 4060 Ti 16GB", "--kv-type", "q8_0"],
    "encoder": ["bert.gguf", "--gpu", "RTX 3060"],
    "draft_and_projector": ["8b.gguf", "--draft", "1b.gguf", "--mmproj", "eyes.gguf", "--n-ctx", "16k"],
    "unknown_worker": [
        "gemma.gguf",
        "--gpu",
        "RTX 5070",
        "--rpc",
        "192.168.1.20:50052@16GiB",
        "--n-ctx",
        "8k",
    ],
    "largest_context": ["8b.gguf", "--gpu", "RTX 4080", "--n-ctx", "max", "--parallel", "1"],
    "refusal": ["70b.gguf", "--gpu", "RTX 3060", "--n-gpu-layers", "-1", "--override-tensor", "none"],
    "verbose_and_explained": ["49b.gguf", "--verbose", "--explain"],
    "machine": ["--gpu", "RTX 3090 + 24GiB"],
    "floor": ["qwen.gguf", "--gpu", "RTX 4060 Ti 16GB", "--floor"],
    "folder": ["folder", "--gpu", "RTX 3090"],
    "other_host": ["70b.gguf", "--gpu", "RTX 4090", "--ram", "64GiB DDR5-6000 2ch", "--cpu", "Ryzen 9 7950X"],
    "unified": ["70b.gguf", "--gpu", "DGX Spark"],
    "compared_rigs": ["70b.gguf", "--compare", "RTX 4090 on 64GB DDR4-3200 2ch", "--compare", "M4 Max 64GB"],
    "compared": ["8b.gguf", "--compare", "RTX 3060", "--compare", "RTX 5090 + RTX 4090"],
}


def write_models(folder: Path) -> None:
    """The models of PLANS: headers in true shapes, holes for weights."""
    for name, model, quantization in (
        ("8b", zoo.llama(), "Q8_0"),
        ("1b", zoo.llama(16, 2048, 32, 8, 8192), "Q8_0"),
        ("49b", zoo.nemotron_49b(), "Q8_0"),
        ("70b", zoo.llama(80, 8192, 64, 8, 28672), "Q4_K"),
        ("gemma", zoo.gemma3(), "Q4_K"),
        ("qwen", zoo.qwen3_moe(), "Q4_K"),
        ("bert", zoo.bert(), "F16"),
    ):
        zoo.write(model, folder / f"{name}.gguf", quantization)
    write_mmproj(folder / "eyes.gguf", n_text=4096)
    (folder / "folder").mkdir()
    for quantization in ("Q2_K", "Q3_K", "Q4_K", "Q6_K", "Q8_0", "BF16"):
        zoo.write(zoo.gemma3(), folder / "folder" / f"gemma-{quantization}.gguf", quantization)
    (folder / "folder" / "broken.gguf").write_text("this is no model")


def detect(
    gpus: str | Sequence[str] = (),
    rpc: Sequence[str] = (),
    *,
    workers: Sequence[WorkerSpec] = (),
    devices: Sequence[str] | None = None,
    **host: str | None,
) -> Machine:
    """Like detection.detect, for the fixed machine. Its workers were never measured."""
    assert not workers
    assert devices is None
    specs = [gpus] if isinstance(gpus, str) else gpus
    machine = what_if(specs or LOCAL, HOST, HostDescription(**host))
    found = [dataclasses.replace(device, what_if=bool(gpus)) for device in machine.devices]
    for i, spec in enumerate(rpc):
        endpoint, _, size = spec.partition("@")
        n_bytes = int(size.removesuffix("GiB")) * GIB
        found.append(
            Device(
                id=f"RPC{i}", name=f"worker {endpoint}", kind=DeviceKind.RPC, total_bytes=n_bytes,
                free_bytes=n_bytes, memory_source=Source.GIVEN, endpoint=endpoint,
            )
        )  # fmt: skip
    return dataclasses.replace(machine, devices=tuple(found))


@contextmanager
def fixed_machine() -> Iterator[None]:
    """Commands see the models of PLANS and the fixed machine; each plan is made, or refused, once."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_models(folder)
        stack.callback(os.chdir, Path.cwd())
        os.chdir(folder)
        shared = stack.enter_context(planning.dry_run())
        stack.enter_context(patch.object(planning, "plan", _once(planning.plan, shared)))
        floor_once = _once(memory_floor.memory_floor, shared)
        stack.enter_context(patch.object(memory_floor, "memory_floor", floor_once))
        compared_once = _once(quantizations.compare_files, shared)
        stack.enter_context(patch.object(quantizations, "compare_files", compared_once))
        stack.enter_context(patch.object(planning, "dry_run", lambda: nullcontext(shared)))
        stack.enter_context(patch.object(planning, "largest_process", lambda: None))
        stack.enter_context(patch.object(detection, "detect", detect))
        yield


def _once(function: Callable[..., T], dry: DryRun) -> Callable[..., T]:
    """`function` of a model or models, a machine and a workload, by `dry`. Results and refusals are kept."""
    results: dict[object, T | DoesNotFit] = {}

    def call(model: object, machine: Machine, workload: Workload, _: object = None, **options: bool) -> T:
        key = (model, machine, workload, *options.items())
        if key not in results:
            try:
                results[key] = function(model, machine, workload, dry, **options)
            except DoesNotFit as error:
                results[key] = error
        result = results[key]
        if isinstance(result, DoesNotFit):
            raise result
        return result

    return call


def printed(name: str, encoding: str) -> str:
    """The output of the plan's command at each width, under a line with the width."""
    pages = []
    for columns in WIDTHS:
        shown = _run(["plan", *PLANS[name]], columns, encoding)
        pages.append(f"=== {columns} columns\n{shown}")
    return "\n".join(pages)


def path_of(name: str, encoding: str) -> Path:
    """The file that keeps it."""
    return FOLDER / f"{name}.{encoding}.txt"


def _run(args: list[str], columns: int, encoding: str) -> str:
    """Standard output of a command, then standard error."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    with (
        patch.object(sys, "argv", ["vram-llm", *args]),
        patch.object(sys, "stdout", streams[0]),
        patch.object(sys, "stderr", streams[1]),
        patch.dict(os.environ, {"COLUMNS": str(columns), "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}),
        suppress(SystemExit),
    ):
        main()
    text = ""
    for stream in streams:
        stream.flush()
        text += stream.buffer.getvalue().decode(encoding)
    return text


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with fixed_machine():
        for name in PLANS:
            for encoding in ENCODINGS:
                path_of(name, encoding).write_text(printed(name, encoding), encoding=encoding)
