"""Plans against llama.cpp: hundreds of real loads over RPC workers, checked to the layer and the byte."""

import dataclasses
import logging
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import pytest

from vram_llm.llama import bindings, rpc
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.llama_split import device_of_layers
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import HOST, Objective, Placement, Plan, Workload

pytestmark = pytest.mark.process

N_LAYERS = {"uneven": 11, "tied": 7, "wide": 5}
_ASSIGNED = re.compile(r"load_tensors: layer +(\d+) assigned to device (\w+)")


@dataclass(frozen=True, slots=True)
class Case:
    """A wish for some of the workers, in some order.

    `shares` limits each worker's memory to a share of what the whole model needs on one; None leaves it all.
    """

    model: str
    devices: tuple[int, ...]
    shares: tuple[float, ...] | None
    workload: Workload

    def __str__(self) -> str:
        wish = self.workload
        split = "planned" if wish.tensor_split is None else str(wish.tensor_split)
        return f"{self.model}-on-{''.join(map(str, self.devices))}-split-{split}-ngl-{wish.n_gpu_layers}"


def _split(pick: random.Random, n: int) -> TensorSplit:
    """Whole numbers, two-decimal shares and arbitrary ones; never all 0."""
    kind = pick.choice(("whole", "decimal", "any"))
    draw = {
        "whole": lambda: float(pick.randint(0, 9)),
        "decimal": lambda: pick.randint(0, 100) / 100,
        "any": pick.random,
    }[kind]
    shares = tuple(draw() for _ in range(n))
    return TensorSplit(shares if sum(shares) else (1.0, *shares[1:]))


def _dictated(pick: random.Random) -> Case:
    model = pick.choice(list(N_LAYERS))
    devices = tuple(pick.sample(range(3), pick.choice((1, 2, 3, 3))))
    n_layers = N_LAYERS[model]
    wishes = (None, -1, 0, 1, n_layers, n_layers + 1, n_layers + 9, pick.randint(0, n_layers))
    workload = dataclasses.replace(
        _context(pick, model),
        tensor_split=_split(pick, len(devices)),
        n_gpu_layers=pick.choice(wishes),
    )
    return Case(model, devices, None, workload)


def _planned(pick: random.Random) -> Case:
    """Memory so scarce that the planner has to spread the model, or to leave layers on the host."""
    model = pick.choice(list(N_LAYERS))
    devices = tuple(pick.sample(range(3), pick.choice((1, 2, 3, 3))))
    wish = pick.choice((None, None, pick.randint(0, N_LAYERS[model] // 2)))
    least = 0.5 if wish is None else 1.0
    shares = tuple(least + 0.5 * pick.random() for _ in devices)
    return Case(model, devices, shares, dataclasses.replace(_context(pick, model), n_gpu_layers=wish))


def _context(pick: random.Random, model: str) -> Workload:
    kv_type = pick.choice(("f16", "q8_0")) if model == "wide" else "f16"
    return Workload(
        n_ctx=pick.choice((256, 512, 1024)),
        parallel=pick.choice((1, 2, 8)),
        n_ubatch=pick.choice((64, 512)),
        kv_type_k=kv_type,
        kv_type_v=kv_type,
        use_mmap=pick.random() < 0.5,
        reserve_bytes=0,
        objective=Objective.BALANCE,
    )


_pick = random.Random(3)
DICTATED = [_dictated(_pick) for _ in range(140)]
PLANNED = [_planned(_pick) for _ in range(60)]
RAW = [_dictated(_pick) for _ in range(80)]


@pytest.mark.parametrize("case", [*DICTATED, *PLANNED], ids=str)
def test_a_plan_is_what_llama_cpp_does(
    case: Case, profiles: dict[str, ModelProfile], machine: Machine, assignments: list[str]
) -> None:
    profile = profiles[case.model]
    here = _machine_of(case, machine, profile)
    plan = make_plan(profile, here, case.workload)
    with _loaded(plan) as model:
        assigned = _assigned(plan, assignments)
        assert assigned == _by_counts(plan)
        if case.workload.tensor_split is not None:
            assert assigned == _by_rule(case, here, profile.n_layers)
        _assert_holds(plan, model.memory_use())


@pytest.mark.parametrize("case", RAW, ids=str)
def test_the_layer_rule_is_llama_cpps(
    case: Case, profiles: dict[str, ModelProfile], machine: Machine, assignments: list[str]
) -> None:
    """The shares as they were given, not the whole counts that the planner makes of them."""
    profile = profiles[case.model]
    here = _machine_of(case, machine, profile)
    plan = make_plan(profile, here, case.workload)
    assert case.workload.tensor_split is not None
    wish = -1 if case.workload.n_gpu_layers is None else case.workload.n_gpu_layers
    raw = Placement(
        device_order=tuple(device.id for device in here.devices),
        layers_per_device=(),
        output_device="",
        cpu_layers=0,
        tensor_split=cast(tuple[int, ...], case.workload.tensor_split.shares),
        n_gpu_layers=wish,
    )
    with _loaded(dataclasses.replace(plan, placement=raw)):
        assert _assigned(plan, assignments) == _by_rule(case, here, profile.n_layers)


def test_the_cases_are_worth_running(profiles: dict[str, ModelProfile], machine: Machine) -> None:
    """Of the planned cases, some spread over devices, some leave layers on the host, some need no host."""
    placements = []
    for case in PLANNED:
        profile = profiles[case.model]
        placements.append(make_plan(profile, _machine_of(case, machine, profile), case.workload).placement)
    assert sum(len(placement.device_order) == 3 for placement in placements) >= 5
    assert sum(len(placement.device_order) == 2 for placement in placements) >= 5
    assert sum(placement.cpu_layers > 0 for placement in placements) >= 5
    assert sum(placement.cpu_layers == 0 for placement in placements) >= 5


def _machine_of(case: Case, machine: Machine, profile: ModelProfile) -> Machine:
    devices = tuple(machine.devices[i] for i in case.devices)
    if case.shares is None:
        return dataclasses.replace(machine, devices=devices)
    alone = dataclasses.replace(case.workload, n_gpu_layers=-1, tensor_split=TensorSplit((1,)))
    whole = make_plan(profile, dataclasses.replace(machine, devices=devices[:1]), alone).estimate.devices[0]
    limited = (
        dataclasses.replace(device, free_bytes=int(share * whole.total_bytes))
        for device, share in zip(devices, case.shares, strict=True)
    )
    return dataclasses.replace(machine, devices=tuple(limited))


@contextmanager
def _loaded(plan: Plan) -> Iterator[LoadedModel]:
    model = LoadedModel(plan)
    try:
        yield model
    finally:
        model.close()


@pytest.fixture
def assignments(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The lines in which llama.cpp says where a layer goes. Its other thousand lines are not kept."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if _ASSIGNED.match(line := record.getMessage()):
                lines.append(line)

    handler, level = Keep(), bindings.log.level
    monkeypatch.setattr(bindings.log, "propagate", False)
    bindings.log.addHandler(handler)
    bindings.log.setLevel(logging.DEBUG)
    yield lines
    bindings.log.setLevel(level)
    bindings.log.removeHandler(handler)


def _assigned(plan: Plan, lines: list[str]) -> list[str]:
    """The device id of every layer and, last, of the output, as llama.cpp said it."""
    said = [match for line in lines if (match := _ASSIGNED.match(line))]
    assert [int(match[1]) for match in said] == list(range(plan.model.n_layers + 1))
    ids = _ids_by_name(plan)
    return [ids[match[2]] for match in said]


def _ids_by_name(plan: Plan) -> dict[str, str]:
    """Plan ids by the names ggml gives the devices, which count servers in the order they were added."""
    names = {"CPU": HOST}
    for device in plan.devices:
        assert device.endpoint is not None
        props = bindings.props_of(rpc.connect(device.endpoint)[device.endpoint_index])
        names[props.name.decode()] = device.id
    return names


def _by_rule(case: Case, here: Machine, n_layers: int) -> list[str]:
    wish, split = case.workload.n_gpu_layers, case.workload.tensor_split
    assert split is not None
    indices = device_of_layers(n_layers, -1 if wish is None else wish, split.shares)
    return [HOST if index < 0 else here.devices[index].id for index in indices]


def _by_counts(plan: Plan) -> list[str]:
    placement = plan.placement
    layers = [HOST] * placement.cpu_layers
    for device_id, count in zip(placement.device_order, placement.layers_per_device, strict=True):
        layers += [device_id] * count
    return [*layers, placement.output_device]


def _assert_holds(plan: Plan, uses: dict[str, MemoryUse]) -> None:
    """Weights and context to the byte, compute at most as estimated, and nothing anywhere else."""
    estimate = plan.estimate
    assert set(uses) <= {HOST, *(device.id for device in estimate.devices)}
    for device in estimate.devices:
        use = uses[device.id]
        assert (use.weights_bytes, use.context_bytes) == (device.weights_bytes, device.context_bytes), (
            device.id
        )
        assert use.compute_bytes <= device.compute_bytes, device.id
        assert use.total_bytes <= device.budget_bytes
    host, use = estimate.host, uses[HOST]
    assert use.context_bytes == host.context_bytes
    assert use.compute_bytes <= host.compute_bytes
    assert use.weights_bytes == host.weights_bytes
