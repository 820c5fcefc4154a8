"""Plan a fleet: several models on one machine, each confirmed by llama.cpp's dry run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from vram_llm.errors import DoesNotFit
from vram_llm.machine.disk_store import with_disk
from vram_llm.planner.types import HOST
from vram_llm.workflows import planning
from vram_llm.workflows.argument_types import check_type

if TYPE_CHECKING:
    from vram_llm.fleet.load_plans import Room
    from vram_llm.llama.dryrun.client import DryRun
    from vram_llm.machine.types import Machine
    from vram_llm.planner.fleet.layouts import Layout
    from vram_llm.planner.fleet.limits import Limits
    from vram_llm.planner.fleet.place_options import PlaceFinder, PlaceOption
    from vram_llm.planner.fleet.types import (
        FleetModelSpec,
        FleetPlan,
        FleetSpec,
        PackedModel,
        PlacedReplica,
    )
    from vram_llm.planner.smaller_plan import PlanReductions
    from vram_llm.planner.types import Plan


def plan_fleet(
    spec: "FleetSpec",
    machine: "Machine",
    *,
    on_model: Callable[[str], None] = lambda _: None,
    shares_workers: bool = False,
    dry: "DryRun | None" = None,
    kept: "Mapping[str, tuple[PlacedReplica, ...]] | None" = None,
) -> "FleetPlan":
    """The plan for a fleet on `machine`: where each model is loaded, and which models fit together.

    The analytic meter finds the places. Then each model is planned, with llama.cpp's dry run, in the memory
    that the others leave in every set that it is in, so the sets fit to the byte. `on_model` gets the name of
    each model before it is planned so. `shares_workers`: RPC workers serve several programs at a time, which
    llama.cpp's own do not. Plans share `dry`, or a dry run of their own. `kept` are replicas of models that
    stay as they are, on all the devices that their specs allow.

    Raises the errors of `planning.plan`, which name the model; BadPlan if groups contradict each other;
    DoesNotFit if a model, its replicas, or models that must be resident together can never fit.
    """
    from vram_llm.machine.types import Machine
    from vram_llm.planner.fleet.check_spec import checked
    from vram_llm.planner.fleet.limits import Limits
    from vram_llm.planner.fleet.pack_fleet import pack_fleet
    from vram_llm.planner.fleet.place_options import equal_devices
    from vram_llm.planner.fleet.placed_replica import fleet_plan_of, is_exact
    from vram_llm.planner.fleet.reasons import reason
    from vram_llm.planner.fleet.room import budgets_of, one_program_devices
    from vram_llm.planner.fleet.types import FleetSpec

    check_type("spec", spec, FleetSpec)
    check_type("machine", machine, Machine)
    spec = checked(spec, machine)
    reserve_bytes = max(model.workload.reserve_bytes for model in spec.models)
    limits = Limits(
        budgets=budgets_of(machine, reserve_bytes),
        one_program=() if shares_workers else one_program_devices(machine),
        apart=spec.apart,
    )
    with nullcontext(dry) if dry is not None else planning.dry_run() as asked:
        finders = {model.name: _finder(model, machine) for model in spec.models}
        packing, models = pack_fleet(spec, finders, limits, equal_devices(machine, limits.budgets))
        confirmation = _Confirmation(spec, machine, limits, packing.layouts, asked, on_model)
        replicas = confirmation.confirmed(kept or {})
    why = {name: reason(name, models, packing.layouts, limits) for name in models}
    notes = [*machine.notes]
    if not packing.is_proven:
        notes.append("the places are the best of those that were compared; better ones may exist")
    if unmeasured := [
        name for name, each in replicas.items() if any(not is_exact(replica) for replica in each)
    ]:
        notes.append(f"no dry run of {', '.join(unmeasured)}: their bytes are the analytic meter's")
    return fleet_plan_of(spec, machine, limits, replicas, why, notes)


@dataclasses.dataclass(frozen=True, slots=True)
class FleetReplanner:
    """Places models of a fleet that runs again, see fleet.load_plans.FleetReplan.

    `plan` gives the fleet's latest plan. `machine` reads the machine as it is now; workers at the endpoints
    that it gets serve models of the fleet, and are not asked.
    """

    plan: "Callable[[], FleetPlan]"
    machine: "Callable[[frozenset[str]], Machine]"

    def __call__(self, name: str, room: "Room") -> "PackedModel":
        """The model's place in the memory that is free now.

        Raises DoesNotFit by how much, and the other errors of `planning.plan`.
        """
        from vram_llm.planner.fleet.room import uses_of_plan, without
        from vram_llm.planner.fleet.types import PackedModel

        plan, machine = self.plan(), self.machine(_busy(room))
        spec = plan[name].spec
        left, replicas = self._left(spec, machine, room), list["PlacedReplica"]()
        for _ in plan[name].replicas:
            replica = _replica_within(spec, machine, left)
            left = without(left, [uses_of_plan(replica.plan)], plan.one_program)
            replicas.append(replica)
        return PackedModel(
            spec=spec, replicas=tuple(replicas), why="in the memory that other programs leave now"
        )

    def replica(self, name: str, plan: "Plan", room: "Room", reductions: "PlanReductions") -> "PlacedReplica":
        """A copy in place of `plan`, with `reductions`. Its context is no longer than that of `plan`.

        Raises DoesNotFit by how much, and the other errors of `planning.plan`.
        """
        from vram_llm.planner.smaller_plan import workload_with
        from vram_llm.workflows.replanning import store_overhead

        machine, spec = self.machine(_busy(room)), self.plan()[name].spec
        if reductions.short is not None and store_overhead(plan, machine, reductions.short):
            machine = self.machine(_busy(room))
        left = self._left(spec, machine, room)
        left = {device: max(n_bytes - reductions.spare_bytes, 0) for device, n_bytes in left.items()}
        workload = workload_with(spec.workload, reductions)
        if workload.n_ctx is None:
            workload = dataclasses.replace(workload, n_ctx=plan.context.n_ctx, largest_ctx=False)
        return _replica_within(dataclasses.replace(spec, workload=workload), machine, left)

    def _left(self, spec: "FleetModelSpec", machine: "Machine", room: "Room") -> dict[str, int]:
        """The memory that is free now, and that the plans of other models leave."""
        from vram_llm.planner.fleet.room import free_budgets

        reserve_bytes, one_program = spec.workload.reserve_bytes, self.plan().one_program
        free = free_budgets(machine, reserve_bytes, room.residents, one_program)
        return {device: min(n_bytes, room.left.get(device, n_bytes)) for device, n_bytes in free.items()}


def _busy(room: "Room") -> frozenset[str]:
    """The workers that serve models which stay."""
    return frozenset(
        device.endpoint
        for plan in room.residents
        for device in plan.devices
        if device.endpoint is not None and device.id in plan.used
    )


def _replica_within(spec: "FleetModelSpec", machine: "Machine", left: "Mapping[str, int]") -> "PlacedReplica":
    """A replica in its best place within budgets. Raises the errors of `planning.plan`."""
    option = _finder(spec, machine).within(left)
    ids = option.devices if option is not None else [device.id for device in machine.devices]
    return _planned(spec, machine, ids, left, None)


def _finder(model: "FleetModelSpec", machine: "Machine") -> "PlaceFinder":
    """The places of a model, by the analytic meter."""
    from vram_llm.planner.fleet.place_options import PlaceFinder

    files = planning.PlannedFiles.read(model.source, model.workload)
    machine = _allowed(model, machine)
    if isinstance(files.model.path, Path):
        machine = with_disk(machine, files.model.path)
    companions = planning.unplaced_companions(files, machine, model.workload, None)
    may_leave = model.devices is None or HOST in model.devices
    return PlaceFinder(files.profile, machine, model.workload, companions, may_leave_devices=may_leave)


def _allowed(model: "FleetModelSpec", machine: "Machine") -> "Machine":
    """`machine` with the devices that a model may use."""
    if model.devices is None:
        return machine
    devices = tuple(device for device in machine.devices if device.id in model.devices)
    return dataclasses.replace(machine, devices=devices)


def _planned(
    model: "FleetModelSpec",
    machine: "Machine",
    devices: Sequence[str],
    budgets: "Mapping[str, int]",
    dry: "DryRun | None",
) -> "PlacedReplica":
    """A replica on some devices, within budgets. Raises the errors of `planning.plan`."""
    from vram_llm.planner.fleet.placed_replica import placed_replica
    from vram_llm.planner.fleet.room import machine_within

    given = (model.workload.n_gpu_layers, model.workload.tensor_split, model.workload.overrides)
    allowed = _allowed(model, machine)
    is_dictated = any(each is not None for each in given)
    ids = [device.id for device in allowed.devices] if is_dictated else devices
    rig = machine_within(allowed, ids, budgets, model.workload.reserve_bytes)
    rig = dataclasses.replace(rig, notes=())  # the fleet's plan has them
    try:
        alone = dataclasses.replace(
            model.workload, use_tuned=False
        )  # it was tuned with the devices to itself
        return placed_replica(planning.plan(model.source, rig, alone, dry, compares=False), rig)
    except DoesNotFit as error:
        raise DoesNotFit(f"{model.name}: {error}", short_bytes=error.short_bytes) from None


class _Confirmation:
    """Plans each model of a packing in memory that no other model of its sets needs."""

    def __init__(
        self,
        spec: "FleetSpec",
        machine: "Machine",
        limits: "Limits",
        layouts: "Mapping[str, Layout]",
        dry: "DryRun",
        on_model: Callable[[str], None],
    ) -> None:
        self._spec, self._machine, self._limits = spec, machine, limits
        self._layouts, self._dry, self._on_model = layouts, dry, on_model
        self._uses = {name: [option.uses for option in each.options] for name, each in layouts.items()}
        self._waiting = {(name, index) for name, each in self._uses.items() for index in range(len(each))}

    def confirmed(
        self, kept: "Mapping[str, tuple[PlacedReplica, ...]]"
    ) -> "dict[str, tuple[PlacedReplica, ...]]":
        """The replicas of each model; `kept` are known before. Raises the errors of `planning.plan`."""
        found = dict(kept)
        for name, own in kept.items():
            self._uses[name] = [replica.uses for replica in own]
            self._waiting -= {(name, index) for index in range(len(own))}
        size = {name: sum(layout.uses.values()) for name, layout in self._layouts.items()}
        for model in sorted(self._spec.models, key=lambda model: -size[model.name]):
            if model.name in kept:
                continue
            self._on_model(model.name)
            replicas = []
            for index, option in enumerate(self._layouts[model.name].options):
                replica = self._replica(model, index, option)
                self._uses[model.name][index] = replica.uses
                self._waiting.discard((model.name, index))
                replicas.append(replica)
            found[model.name] = tuple(replicas)
        return found

    def _replica(self, model: "FleetModelSpec", index: int, option: "PlaceOption") -> "PlacedReplica":
        """A replica, planned in its share of the memory left, or in more if that is too little.

        The analytic meter is an upper bound but for some 3 % of compute buffers, so the share nearly always
        suffices. If all memory left is too little, the model takes memory that other sets would need.
        """
        refusal: DoesNotFit | None = None
        for budgets in (
            self._left(model.name, index, option, is_shared=True),
            self._left(model.name, index, option, is_shared=False),
            self._without_necessary(model.name, index),
        ):
            try:
                return _planned(model, self._machine, option.devices, budgets, self._dry)
            except DoesNotFit as error:
                refusal = refusal or error
        assert refusal is not None
        raise refusal

    def _left(self, name: str, index: int, option: "PlaceOption", *, is_shared: bool) -> dict[str, int]:
        """The bytes of one replica, and those that every set with its model leaves.

        With `is_shared`, models that are not planned yet get equal shares of the latter.
        """
        from vram_llm.planner.fleet.limits import FittingModels

        budgets, own = self._limits.budgets, self._uses[name][index]
        sets = FittingModels(self._limits, self._uses).maximal_sets(self._spec.together)
        sets = tuple(each for each in sets if name in each) or (frozenset([name]),)
        left = {}
        for device_id in budgets:
            users = {
                (other, number)
                for each in sets
                for other in each
                for number, uses in enumerate(self._uses[other])
                if (other, number) in self._waiting and device_id in uses
            }
            spare = min(budgets[device_id] - self._used(each, device_id) for each in sets)
            share = max(len(users), 1) if is_shared else 1
            left[device_id] = own.get(device_id, 0) + max(spare, 0) // share
        return left

    def _without_necessary(self, name: str, index: int) -> dict[str, int]:
        """The budgets less the bytes of models that are always resident with this one, and of its copies."""
        from vram_llm.planner.fleet.check_spec import must_fit

        necessary = frozenset([name]).union(*(group for group in must_fit(self._spec) if name in group))
        own = self._uses[name][index]
        return {
            device_id: max(budget - self._used(necessary, device_id) + own.get(device_id, 0), 0)
            for device_id, budget in self._limits.budgets.items()
        }

    def _used(self, names: frozenset[str], device_id: str) -> int:
        return sum(uses.get(device_id, 0) for name in names for uses in self._uses[name])
