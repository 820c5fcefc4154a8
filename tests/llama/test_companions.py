"""Adapters, projectors and draft models beside a model: planned against what really is held."""

import os
import random
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.companions import write_ears, write_lora, write_mmproj
from tests.conftest import PlanOnCpu
from tests.pictures import png
from tests.planner.cases import speed, with_speeds
from tests.sounds import tone, wav
from tests.workers import await_listening, free_ports, worker_process
from tests.zoo.loadable import LOADABLE, write_loadable
from tools.random_model import write_llama
from vram_llm.errors import BadPlan, ModelRefused
from vram_llm.llama import bindings as b
from vram_llm.llama import rpc
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.multimodal.audio_files import audio_file
from vram_llm.llama.multimodal.encoder import Bitmap, ImageRows
from vram_llm.machine.types import Host, Machine
from vram_llm.model.header_reader import read_header
from vram_llm.model.pooling import Pooling
from vram_llm.model.profile import profile
from vram_llm.planner.context import LEAST_OUTPUTS
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import HOST, Companion, CompanionKind, Lora, Placement, Plan, Workload
from vram_llm.units import GIB, MIB
from vram_llm.workflows import planning, serving, verification

pytestmark = pytest.mark.process

_ASKED = re.compile(r"\[alloc_buffer\] device: \d+, size: (\d+) ")
_SERVE = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from vram_llm.llama import rpc
rpc.serve(sys.argv[1], 1)
"""


@dataclass(frozen=True)
class Worker:
    """A worker that writes down every buffer it is asked for."""

    endpoint: str
    log: Path

    def asked(self, since: int = 0) -> list[int]:
        """Sizes in bytes, in order."""
        return [int(size) for size in _ASKED.findall(self.log.read_text(errors="replace")[since:])]


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, ...]]:
    """Three of them."""
    folder = tmp_path_factory.mktemp("workers")
    with _running(folder) as one, _running(folder) as two, _running(folder) as three:
        yield one, two, three


@contextmanager
def _running(folder: Path) -> Iterator[Worker]:
    endpoint = f"127.0.0.1:{free_ports(1)[0]}"
    log = folder / f"{endpoint.replace(':', '-')}.log"
    command = [sys.executable, "-c", _SERVE, endpoint]
    env = os.environ | {"GGML_RPC_DEBUG": "1"}
    with log.open("wb") as output, worker_process(command, env, output) as process:
        await_listening(endpoint, process)
        yield Worker(endpoint, log)


@pytest.fixture
def rig(telling: tuple[Worker, ...], host: Host) -> Machine:
    """The workers as devices, of 1 GiB each."""
    devices = rpc.devices(tuple(worker.endpoint for worker in telling))
    return Machine(devices=tuple(replace(each, free_bytes=GIB) for each in devices), host=host)


def of_kind(plan: Plan, kind: CompanionKind) -> list[Companion]:
    return [each for each in plan.companions if each.kind is kind]


def wish(pick: random.Random, n_layers: int, **other: object) -> Workload:
    n_host = pick.choice((0, 0, pick.randint(1, n_layers)))
    given: dict[str, object] = {
        "n_ctx": pick.choice((512, 1024)), "parallel": pick.choice((1, 4)), "reserve_bytes": 0,
        "n_ubatch": pick.choice((64, 256)), "use_mmap": False, "kv_unified": pick.random() < 0.5,
        "tensor_split": TensorSplit(tuple(float(pick.randint(1, 4)) for _ in range(3))),
        "n_gpu_layers": n_layers + 1 - n_host,
    }  # fmt: skip
    return Workload(**(given | other))  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize("name", ["dense", "qwen3_moe", "gemma3", "nemotron_h", "deepseek2"])
def test_adapters_hold_what_was_planned(
    name: str, telling: tuple[Worker, ...], rig: Machine, tmp_path: Path
) -> None:
    """Weights to the byte by what each worker was asked for, compute by llama.cpp's own report."""
    path = write_loadable(LOADABLE[name](), tmp_path / "model.gguf")
    files = [write_lora(tmp_path / f"{rank}.gguf", path, rank=rank) for rank in (4, 16)]
    n_layers, pick = profile(read_header(path)).n_layers, random.Random(name)
    for _ in range(4):
        loras = tuple(Lora(str(file), pick.choice((0.5, 1.0))) for file in files)
        plan = planning.plan(str(path), rig, wish(pick, n_layers, loras=loras))
        marks = [worker.log.stat().st_size for worker in telling]
        b.forget_lines()
        model = LoadedModel(plan)
        held = model.memory_use()
        said = [line for line in b.recent_lines if "LoRA buffer size" in line and " CPU" in line]
        model.close()
        for use in plan.estimate.devices:
            assert held[use.id].compute_bytes == use.compute_bytes
            index = int(use.id.removeprefix("RPC"))
            sizes = telling[index].asked(marks[index])
            planned = [each.uses[use.id].total_bytes for each in plan.companions]
            assert sum(planned) == use.companion_bytes
            for n_bytes in filter(None, planned):
                sizes.remove(n_bytes)  # raises where no buffer of that very size was asked for
        assert held[HOST].compute_bytes == plan.estimate.host.compute_bytes
        on_host = sum(float(line.split("=")[1].split()[0]) * MIB for line in said)
        assert on_host == pytest.approx(plan.estimate.host.companion_bytes, abs=0.006 * MIB * len(files))


def test_without_an_adapter_compute_is_less(rig: Machine, tmp_path: Path) -> None:
    """So that the test above cannot pass by leaving adapters out."""
    path = write_llama(tmp_path / "model.gguf", n_embd=256, n_ff=(512,) * 4)
    lora = write_lora(tmp_path / "lora.gguf", path, rank=64)
    plain = wish(random.Random(1), 4, n_gpu_layers=5, n_ubatch=256, n_ctx=512)
    one, other = (
        planning.plan(str(path), rig, each) for each in (plain, replace(plain, loras=(Lora(str(lora)),)))
    )
    pairs = zip(one.estimate.devices, other.estimate.devices, strict=True)
    assert any(b.compute_bytes > a.compute_bytes for a, b in pairs)


def test_an_adapter_does_what_adding_it_to_the_weights_does(plan_on_cpu: PlanOnCpu, tmp_path: Path) -> None:
    plain = write_llama(tmp_path / "plain.gguf", quant=gguf.GGMLQuantizationType.F32)
    lora = write_lora(tmp_path / "lora.gguf", plain)
    merged, scale = Path(shutil.copy(plain, tmp_path / "merged.gguf")), 0.5
    _add(merged, lora, scale)
    without = _logits(plan_on_cpu(plain))
    adapted = Companion(
        kind=CompanionKind.LORA, path=str(lora), name="lora", total_bytes=0, device=None, uses={}, method="",
        scale=scale,
    )  # fmt: skip
    beside = _logits(replace(plan_on_cpu(plain), companions=(adapted,)))
    assert np.abs(beside - without).max() > 0.1
    assert np.abs(beside - _logits(plan_on_cpu(merged))).max() < 1e-3


def _add(model: Path, lora: Path, scale: float) -> None:
    """Add scale x B x A to the weights in the file `model`."""
    tensors = {each.name: each.data for each in gguf.GGUFReader(lora).tensors}
    reader = gguf.GGUFReader(model, "r+")
    for each in reader.tensors:
        if (a := tensors.get(f"{each.name}.lora_a")) is not None:
            weights = each.data  # a view of the file
            weights += np.float32(scale) * (tensors[f"{each.name}.lora_b"] @ a)
    reader.data.flush()


def _logits(plan: Plan) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    model = LoadedModel(plan)
    row = model.batch.add([1, 50, 60, 70], 0, 0, n_outputs=1)
    assert model.decode() == 0
    found = model.logits(row).copy()
    model.close()
    return found


def test_a_draft_model_holds_what_was_planned(rig: Machine, tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model.gguf", n_ff=(256,) * 6)
    small = write_llama(tmp_path / "draft.gguf", n_ff=(96,) * 2)
    pick = random.Random(2)
    for _ in range(4):
        plan = planning.plan(str(path), rig, wish(pick, 6, draft=str(small)))
        (companion,) = of_kind(plan, CompanionKind.DRAFT)
        assert companion.device in plan.placement.device_order
        assert companion.context is not None
        assert (companion.context.n_ctx, companion.method) == (plan.context.n_ctx, "dry run")
        assert plan.context.n_outputs == max(4 * plan.context.parallel, LEAST_OUTPUTS)
        own = Placement(
            device_order=(companion.device,), layers_per_device=(2,), output_device=companion.device,
            cpu_layers=0, tensor_split=(3,), n_gpu_layers=3,
        )  # fmt: skip
        alone = replace(
            plan, context=companion.context, placement=own, companions=(),
            model=replace(plan.model, path=str(small)),
        )  # fmt: skip
        model = LoadedModel(alone)
        held = model.memory_use()
        model.close()
        for name, use in companion.uses.items():
            assert held[name] == use
        beside = {use.id: use.companion_bytes for use in plan.estimate.devices}
        assert beside[companion.device] == companion.uses[companion.device].total_bytes


def test_on_a_device_the_model_leaves_idle_it_holds_what_was_planned(rig: Machine, tmp_path: Path) -> None:
    """Loaded for real beside the model, and asked: `verify` has all sequences decode."""
    path = write_llama(tmp_path / "model.gguf", n_ff=(256,) * 6)
    small = write_llama(tmp_path / "draft.gguf", n_ff=(96,) * 2)
    wish = Workload(n_ctx=512, parallel=4, reserve_bytes=0, use_mmap=False, draft=str(small))
    no_links = tuple(
        replace(device, link=None) for device in rig.devices
    )  # measured ones differ between runs
    uneven = with_speeds(replace(rig, devices=no_links), speed(10), speed(90), speed(30))
    plan = planning.plan(str(path), uneven, wish)
    (companion,) = of_kind(plan, CompanionKind.DRAFT)
    assert (plan.placement.device_order, companion.device) == (("RPC1",), "RPC2")
    report = verification.verify(plan)
    assert report.within_budget
    rows = {row.id: row for row in report.devices}
    assert set(rows) == {"RPC1", "RPC2", HOST}
    for name in ("RPC2", HOST):
        (held,) = [kind for kind in rows[name].kinds if kind.kind == "draft"]
        assert held.held_bytes == held.planned_bytes == companion.uses[name].total_bytes
    assert {"weights", "context", "compute", "draft"} <= set(report.exact_kinds)


@pytest.mark.parametrize("image", [56, 224])
def test_a_projector_holds_what_was_planned(
    image: int, telling: tuple[Worker, ...], rig: Machine, tmp_path: Path
) -> None:
    """Against libmtmd loading it for real on a worker: weights and compute to the byte."""
    path = write_llama(tmp_path / "model.gguf")
    mmproj = write_mmproj(tmp_path / "mmproj.gguf", image=image)
    plan = planning.plan(str(path), rig, wish(random.Random(image), 4, mmproj=str(mmproj)))
    (companion,) = of_kind(plan, CompanionKind.MMPROJ)
    assert companion.device is not None
    assert companion.method == "dry run"
    worker = telling[int(companion.device.removeprefix("RPC"))]
    mark = worker.log.stat().st_size
    model = LoadedModel(plan)
    asked = worker.asked(mark)
    assert model.images is not None
    _, rows, _ = model.images.read(["a", Bitmap(png(1)), "b"], add_special=True)
    assert isinstance(rows, ImageRows)
    assert model.images.encode(rows)
    assert worker.asked(mark) == asked  # an image takes nothing more
    del rows
    model.close()
    use = companion.uses[companion.device]
    asked.index(use.weights_bytes)  # raises where no buffer of that very size was asked for
    assert asked[-1] == use.compute_bytes


@pytest.mark.parametrize("kind", ["ultravox", "qwen2a"])
def test_a_projector_of_sound_holds_what_was_planned(
    kind: str, telling: tuple[Worker, ...], rig: Machine, tmp_path: Path
) -> None:
    path = write_llama(tmp_path / "model.gguf")
    mmproj = write_ears(tmp_path / "mmproj.gguf", kind=kind)
    plan = planning.plan(str(path), rig, wish(random.Random(7), 4, mmproj=str(mmproj)))
    (companion,) = of_kind(plan, CompanionKind.MMPROJ)
    assert companion.device is not None
    worker = telling[int(companion.device.removeprefix("RPC"))]
    mark = worker.log.stat().st_size
    model = LoadedModel(plan)
    asked = worker.asked(mark)
    assert model.images is not None
    recording = model.images.recording(audio_file(wav(tone(440))).data)
    rows = next(
        part
        for part in model.images.read(["a", recording, "b"], add_special=True)
        if isinstance(part, ImageRows)
    )
    assert model.images.encode(rows)
    assert worker.asked(mark) == asked  # a sound takes nothing more
    del rows
    model.close()
    use = companion.uses[companion.device]
    asked.index(use.weights_bytes)
    assert asked[-1] == use.compute_bytes


def test_a_projector_is_loaded_with_the_model_and_refused_where_it_is_not_its_own(
    host: Host, tmp_path: Path
) -> None:
    path, machine = write_llama(tmp_path / "model.gguf"), Machine(devices=(), host=host)
    mmproj = write_mmproj(tmp_path / "mmproj.gguf")
    plan = planning.plan(str(path), machine, Workload(n_ctx=512, mmproj=str(mmproj)))
    assert plan.companions[0].device == HOST
    assert plan.estimate.host.companion_bytes > mmproj.stat().st_size // 2
    model = LoadedModel(plan)
    assert model.images is not None
    model.close()
    other = write_mmproj(tmp_path / "other.gguf", n_text=96)
    with pytest.raises(ModelRefused, match=r"other\.gguf with this model: .*mismatch"):
        LoadedModel(planning.plan(str(path), machine, Workload(n_ctx=512, mmproj=str(other))))


def test_a_plan_that_pools_in_llama_cpp_takes_no_projector(host: Host, tmp_path: Path) -> None:
    path, machine = write_llama(tmp_path / "model.gguf"), Machine(devices=(), host=host)
    mmproj = str(write_mmproj(tmp_path / "mmproj.gguf"))
    plan = planning.plan(str(path), machine, Workload(n_ctx=512, mmproj=mmproj, pooling=Pooling.MEAN))
    assert plan.context.pools_in_engine
    changed = replace(plan, context=replace(plan.context, pools_in_engine=False))
    with pytest.raises(BadPlan, match="pools text alone and has a projector: plan again"):
        serving.serve(changed)
