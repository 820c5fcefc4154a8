"""Fleets planned with llama.cpp's dry run; sets that fit are loaded on workers, to the byte."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.zoo.loadable import LOADABLE, write_loadable
from tools.random_model import write_llama
from vram_llm.errors import BadPlan, DoesNotFit
from vram_llm.fleet.load_plans import Room
from vram_llm.llama import rpc
from vram_llm.llama.devices import Servers
from vram_llm.llama.dryrun.client import METHOD, DryRun
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.types import Device, Host, Machine, Source
from vram_llm.planner.fleet.fleet_json import fleet_from_json, fleet_to_json
from vram_llm.planner.fleet.types import FleetModelSpec, FleetPlan, FleetSpec
from vram_llm.planner.fleet.unloading import swap_table
from vram_llm.planner.smaller_plan import PlanReductions
from vram_llm.planner.types import HOST, Serving, Workload
from vram_llm.units import MIB
from vram_llm.workflows.fleet_planning import FleetReplanner, plan_fleet
from vram_llm.workflows.machine_now import MachineNow

pytestmark = pytest.mark.process

_WORKLOAD = Workload(n_ctx=512, parallel=2, n_ubatch=64, reserve_bytes=0, serving=Serving(slots_ram_bytes=0))
_RIGS = {
    "a card for each of two": (14, 9, 3),
    "equal cards": (9, 9, 9),
    "one for all": (24,),
    "the large one is split": (7, 7, 4),
}
"""MiB of each worker."""


@pytest.fixture(scope="module")
def dry() -> Iterator[DryRun]:
    with DryRun() as dry_run:
        yield dry_run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Paths of models of several architectures and sizes."""
    folder = tmp_path_factory.mktemp("fleet")
    written = {
        "large": write_llama(folder / "large.gguf", n_embd=256, n_ff=(1024,) * 6, n_vocab=1000),
        "chat": write_llama(folder / "chat.gguf", n_embd=256, n_ff=(512,) * 4),
        "experts": write_loadable(LOADABLE["qwen3_moe"](), folder / "experts.gguf"),
        "small": write_llama(folder / "small.gguf"),
    }
    return {name: str(path) for name, path in written.items()}


@pytest.fixture(scope="module")
def devices(workers: tuple[str, ...]) -> tuple[Device, ...]:
    """The devices of three workers, with the whole host's memory each."""
    return rpc.devices(workers)


def _machine(devices: tuple[Device, ...], host: Host, mib: tuple[int, ...]) -> Machine:
    limited = (
        dataclasses.replace(device, free_bytes=n * MIB, memory_source=Source.GIVEN)
        for device, n in zip(devices, mib, strict=False)
    )
    return Machine(devices=tuple(limited), host=host)


def _spec(models: Mapping[str, str], **changes: object) -> FleetSpec:
    specs = (FleetModelSpec(name=name, source=path, workload=_WORKLOAD) for name, path in models.items())
    return dataclasses.replace(FleetSpec(models=tuple(specs)), **changes)  # type: ignore[arg-type]  # by name


def _loaded_bytes(plan: FleetPlan, names: frozenset[str]) -> dict[str, int]:
    """Bytes in llama.cpp's buffers by device with these models loaded at the same time, and on the host.

    Each load is also compared with its own plan.
    """
    total: dict[str, int] = {}
    servers: Servers = {}  # a worker does not answer a second connection
    with ExitStack() as stack:
        loaded = [
            (replica.plan, stack.enter_context(closing(LoadedModel(replica.plan, servers=servers))))
            for name in sorted(names)
            for replica in plan[name].replicas
        ]
        for of, model in loaded:
            held = {name: use.total_bytes for name, use in model.memory_use().items() if use.total_bytes}
            planned = {use.id: use.total_bytes for use in of.estimate.devices}
            planned[HOST] = of.estimate.host.total_bytes
            assert held == {name: n_bytes for name, n_bytes in planned.items() if n_bytes}
            for name, n_bytes in held.items():
                total[name] = total.get(name, 0) + n_bytes
    return total


@pytest.mark.parametrize("rig", _RIGS)
def test_every_set_that_fits_together_is_loaded_to_the_byte(
    rig: str, models: Mapping[str, str], devices: tuple[Device, ...], host: Host, dry: DryRun
) -> None:
    machine = _machine(devices, host, _RIGS[rig])
    plan = plan_fleet(_spec(models), machine, shares_workers=True, dry=dry)
    assert all(replica.plan.estimate.method == METHOD for model in plan.models for replica in model.replicas)
    assert {name for names in plan.sets for name in names} == set(models)
    for names in plan.sets:
        held = _loaded_bytes(plan, names)
        uses = [plan[name].uses for name in names]
        for device_id, n_bytes in held.items():
            assert n_bytes == sum(use.get(device_id, 0) for use in uses)
            assert n_bytes <= plan.budgets[device_id]
    assert fleet_from_json(fleet_to_json(plan), "plan") == plan


def test_a_worker_serves_one_model_at_a_time(
    models: Mapping[str, str], devices: tuple[Device, ...], host: Host, dry: DryRun
) -> None:
    """llama.cpp's worker serves one program, and each model has an engine process."""
    two = {name: models[name] for name in ("chat", "small")}
    asked: list[str] = []
    plan = plan_fleet(_spec(two), _machine(devices, host, (64,)), on_model=asked.append, dry=dry)
    assert asked == ["chat", "small"]
    assert set(plan.sets) == {frozenset({"chat"}), frozenset({"small"})}
    assert {(swap.asked, swap.unloaded) for swap in swap_table(plan)} == {
        ("chat", frozenset({"small"})),
        ("small", frozenset({"chat"})),
    }


def test_an_open_context_takes_what_every_set_leaves(
    models: Mapping[str, str], devices: tuple[Device, ...], host: Host, dry: DryRun
) -> None:
    """The two share the card, and both fit it with the longer contexts that they get."""
    spec = _spec({name: models[name] for name in ("chat", "small")})
    wide = dataclasses.replace(_WORKLOAD, n_ctx=None, parallel=1)
    open_specs = tuple(dataclasses.replace(model, workload=wide) for model in spec.models)
    spec = dataclasses.replace(spec, models=open_specs)
    plan = plan_fleet(spec, _machine(devices, host, (64,)), shares_workers=True, dry=dry)
    assert plan.sets == (frozenset({"chat", "small"}),)
    assert [model.replicas[0].plan.context.n_ctx for model in plan.models] == [4096, 4096]


def test_a_model_is_placed_again_beside_what_is_loaded(
    models: Mapping[str, str], devices: tuple[Device, ...], host: Host, dry: DryRun
) -> None:
    """Other programs have taken the memory of its card; then of both."""
    machine = _machine(devices, host, (12, 12))
    plan = plan_fleet(_spec({"chat": models["chat"]}), machine, shares_workers=True, dry=dry)
    (taken,) = plan["chat"].replicas[0].devices
    (other,) = {device.id for device in machine.devices} - {taken}
    small = plan_fleet(_spec({"small": models["small"]}), machine, shares_workers=True, dry=dry)
    residents = [small["small"].replicas[0].plan]

    def now(*ids: str) -> Machine:
        free = {device.id: 0 if device.id in ids else device.free_bytes for device in machine.devices}
        full = (dataclasses.replace(device, free_bytes=free[device.id]) for device in machine.devices)
        rest = host if len(ids) == 1 else dataclasses.replace(host, available_bytes=MIB)
        return Machine(devices=tuple(full), host=rest)

    room = Room(left=plan.budgets, residents=tuple(residents))
    found = FleetReplanner(lambda: plan, lambda _: now(taken))("chat", room)
    assert found.replicas[0].devices == (other,)
    with pytest.raises(DoesNotFit, match=r"chat: .* short"):
        FleetReplanner(lambda: plan, lambda _: now(taken, other))("chat", room)


def test_an_engine_that_ran_out_of_memory_is_planned_smaller_beside_what_is_loaded(
    models: Mapping[str, str], devices: tuple[Device, ...], host: Host, dry: DryRun
) -> None:
    """Its card has room, but another model's plan counts on it."""
    machine = _machine(devices, host, (12, 12))
    plan = plan_fleet(_spec({"chat": models["chat"]}), machine, shares_workers=True, dry=dry)
    replica = plan["chat"].replicas[0]
    (taken,) = replica.devices
    replanner = FleetReplanner(lambda: plan, lambda _: machine)
    reductions = PlanReductions(n_ctx=256, short=taken)
    same = replanner.replica("chat", replica.plan, Room(left=plan.budgets, residents=()), reductions)
    assert same.plan.context.n_ctx == 256
    assert sum(same.uses.values()) < sum(replica.uses.values())
    room = Room(left={**plan.budgets, taken: MIB}, residents=())
    assert taken not in replanner.replica("chat", replica.plan, room, reductions).devices
    spare = dataclasses.replace(reductions, spare_bytes=max(plan.budgets.values()))
    with pytest.raises(DoesNotFit):
        replanner.replica("chat", replica.plan, room, spare)


def test_the_free_memory_of_workers_is_read(workers: tuple[str, ...], host: Host) -> None:
    """Of those that are asked for; a limit that the user gave stays."""
    found = rpc.devices((workers[0], f"{workers[1]}@16MiB"))
    now = MachineNow(found, lambda: Machine(devices=(), host=host))
    free = now.free_bytes({"RPC0", "RPC1"})
    assert 64 * MIB < free["RPC0"] <= found[0].total_bytes
    assert free["RPC1"] == 16 * MIB
    assert "RPC0" not in now.free_bytes({HOST})
    gone = dataclasses.replace(found[0], endpoint="127.0.0.1:1")
    assert "RPC0" not in MachineNow((gone,), None).free_bytes({"RPC0"})
    busy = frozenset({workers[0]})
    assert [device.free_bytes for device in now.machine(busy).devices] == [found[0].free_bytes, 16 * MIB]


def test_models_that_never_fit_are_refused_by_name(
    models: Mapping[str, str], devices: tuple[Device, ...], host: Host, dry: DryRun
) -> None:
    machine = _machine(devices, dataclasses.replace(host, available_bytes=4 * MIB), (4,))
    with pytest.raises(DoesNotFit, match="large can never be loaded"):
        plan_fleet(_spec(models), machine, dry=dry)
    pair = frozenset({"chat", "small"})
    together = _spec({name: models[name] for name in sorted(pair)}, together=(pair,))
    with pytest.raises(DoesNotFit, match="chat and small are to be resident together and never fit: an RPC"):
        plan_fleet(together, _machine(devices, host, (64,)), dry=dry)
    with pytest.raises(BadPlan, match="chat and small are to be resident together, and are in a group"):
        plan_fleet(dataclasses.replace(together, apart=(pair,)), machine, dry=dry)


def test_a_model_that_is_not_there_is_named(tmp_path: Path, host: Host) -> None:
    spec = _spec({"gone": str(tmp_path / "gone.gguf")})
    with pytest.raises(Exception, match=r"gone\.gguf"):
        plan_fleet(spec, Machine(devices=(), host=host))
