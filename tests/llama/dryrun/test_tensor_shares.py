"""Tensor split: planned bytes against buffers that workers count, and logits against a layer split's."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.counting_worker import CountingWorker, counting_workers
from tests.zoo.loadable import LOADABLE, write_loadable
from tests.zoo.wide import WIDE, wide
from vram_llm.errors import BadPlan, ModelRefused
from vram_llm.llama import rpc
from vram_llm.llama.devices import Servers
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.types import Device, Host, Machine
from vram_llm.model.header_reader import read_header
from vram_llm.planner.export.formats import emit, from_json, to_json
from vram_llm.planner.llama_split import placement_from_counts, tensor_placement
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.tensor_split import SplitChoice, SplitMode, TensorSplit
from vram_llm.planner.types import Context, Placement, Plan, Workload
from vram_llm.workflows import detection

pytestmark = pytest.mark.process

N_LAYERS, N_TOKENS = 3, 128
SHARES = ((1, 1), (3, 1), (5, 3, 1))


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CountingWorker, ...]]:
    with counting_workers(3, tmp_path_factory.mktemp("counts")) as workers:
        yield workers


@pytest.fixture(scope="module")
def devices(counting: tuple[CountingWorker, ...]) -> tuple[Device, ...]:
    return rpc.devices(tuple(worker.endpoint for worker in counting))


@pytest.fixture(scope="module")
def servers() -> Servers:
    return {}


@pytest.fixture(scope="module")
def dry() -> Iterator[DryRun]:
    with DryRun() as dry_run:
        yield dry_run


@pytest.mark.parametrize("architecture", WIDE)
def test_bytes_and_logits(
    architecture: str,
    counting: tuple[CountingWorker, ...],
    devices: tuple[Device, ...],
    servers: Servers,
    dry: DryRun,
    host: Host,
    tmp_path: Path,
) -> None:
    """Each worker holds the planned bytes, and the logits are those of a layer split but for rounding."""
    path = write_loadable(wide(architecture), tmp_path / "model.gguf")
    plan = _plan(path, devices, host)
    layers = placement_from_counts([device.id for device in devices[:2]], [2, 1], N_LAYERS)
    expected, _ = _loaded(plan, layers, servers, counting)
    for shares in SHARES:
        placement = tensor_placement([d.id for d in devices[: len(shares)]], shares, N_LAYERS)
        estimate = dry.meter(read_header(path), plan.context, devices, host, 0)(placement)
        logits, held = _loaded(plan, placement, servers, counting)
        assert [use.use.total_bytes for use in estimate.devices] == held[: len(shares)]
        assert np.abs(logits - expected).max() < 0.03 * expected.std()


def test_an_architecture_that_llama_cpp_does_not_split(
    devices: tuple[Device, ...], dry: DryRun, host: Host, tmp_path: Path
) -> None:
    path = write_loadable(LOADABLE["nemotron_h"](), tmp_path / "model.gguf")
    with pytest.raises(ModelRefused, match="not implemented for architecture 'nemotron_h'"):
        _measure(dry, path, devices, host, (1, 1))


def test_shares_that_leave_a_device_without_part_of_a_tensor(
    devices: tuple[Device, ...], dry: DryRun, host: Host, tmp_path: Path
) -> None:
    """gemma3 here has two KV heads: a third of the devices would compute with memory that nobody wrote."""
    path = write_loadable(LOADABLE["gemma3"](), tmp_path / "model.gguf")
    with pytest.raises(ModelRefused, match="a device would get no share of "):
        _measure(dry, path, devices, host, (5, 3, 1))


def test_a_plan_and_its_load(
    devices: tuple[Device, ...], servers: Servers, dry: DryRun, host: Host, tmp_path: Path
) -> None:
    """A plan by tensors holds what it says, and the engine's own report agrees with it to the byte."""
    path = write_loadable(wide("llama"), tmp_path / "model.gguf")
    machine = Machine(devices=devices[:2], host=host)
    workload = Workload(
        n_ctx=512, parallel=2, n_ubatch=N_TOKENS, reserve_bytes=0, split_mode=SplitChoice.TENSOR
    )
    header = read_header(path)
    plan = make_plan(
        detection.analyze(str(path)),
        machine,
        workload,
        lambda context: dry.meter(header, context, machine.devices, host, 0),
    )
    assert plan.placement.split_mode is SplitMode.TENSOR
    assert {use.id for use in plan.estimate.devices} == {"RPC0", "RPC1"}
    assert [other.name for other in plan.alternatives] == ["split by layers"]
    assert [note for note in plan.notes if "the host samples, and copies no" in note]
    assert "--split-mode tensor" in emit(plan, "llama-server").replace("\\\n", " ")
    assert from_json(to_json(plan), "plan.json") == plan
    model = LoadedModel(plan, servers=servers)
    try:
        model.batch.add([i * 7919 % 1000 for i in range(N_TOKENS)], 0, 0, n_outputs=1)
        assert model.decode() == 0
        model.wait()
        held = model.memory_use()
    finally:
        model.close()
    assert [held[use.id] for use in plan.estimate.devices] == [use.use for use in plan.estimate.devices]


def test_a_plan_that_is_refused(devices: tuple[Device, ...], dry: DryRun, host: Host, tmp_path: Path) -> None:
    path = write_loadable(LOADABLE["nemotron_h"](), tmp_path / "model.gguf")
    header, machine = read_header(path), Machine(devices=devices[:2], host=host)
    with pytest.raises(BadPlan, match=r"no tensor split: .*'nemotron_h'; --split-mode layer plans"):
        make_plan(
            detection.analyze(str(path)),
            machine,
            Workload(n_ctx=512, reserve_bytes=0, split_mode=SplitChoice.TENSOR),
            lambda context: dry.meter(header, context, machine.devices, host, 0),
        )


def test_the_refusal_of_shares_names_the_other_mode_once(
    devices: tuple[Device, ...], dry: DryRun, host: Host, tmp_path: Path
) -> None:
    path = write_loadable(LOADABLE["gemma3"](), tmp_path / "model.gguf")
    header, machine = read_header(path), Machine(devices=devices, host=host)
    shares = TensorSplit((5, 3, 1))
    workload = Workload(n_ctx=512, reserve_bytes=0, split_mode=SplitChoice.TENSOR, tensor_split=shares)
    with pytest.raises(BadPlan) as refused:
        make_plan(
            detection.analyze(str(path)),
            machine,
            workload,
            lambda context: dry.meter(header, context, machine.devices, host, 0),
        )
    assert "a device would get no share of " in str(refused.value)
    assert str(refused.value).count("--split-mode layer") == 1


def _measure(
    dry: DryRun, path: Path, devices: tuple[Device, ...], host: Host, shares: tuple[int, ...]
) -> None:
    plan = _plan(path, devices, host)
    placement = tensor_placement([d.id for d in devices[: len(shares)]], shares, plan.model.n_layers)
    dry.meter(read_header(path), plan.context, devices, host, 0)(placement)


def _plan(path: Path, devices: tuple[Device, ...], host: Host) -> Plan:
    workload = Workload(n_ctx=512, parallel=2, n_ubatch=N_TOKENS, reserve_bytes=0)
    return make_plan(
        detection.analyze(str(path)), Machine(devices=devices, host=host), workload, compares=False
    )


def _loaded(
    plan: Plan, placement: Placement, servers: Servers, counting: tuple[CountingWorker, ...]
) -> tuple[npt.NDArray[np.float32], list[int]]:
    """The logits after a full micro-batch, and the bytes that each worker then holds."""
    model = LoadedModel(replace(plan, placement=placement), servers=servers)
    try:
        context: Context = plan.context
        model.batch.clear()
        model.batch.add([i * 7919 % 1000 for i in range(context.n_ubatch)], 0, 0, n_outputs=1)
        assert model.decode() == 0
        model.wait()
        return model.logits(context.n_ubatch - 1).copy(), [worker.held_bytes for worker in counting]
    finally:
        model.close()
