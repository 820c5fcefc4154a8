"""Memory for the models of a fleet, and the machine as one of them may use it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from vram_llm.machine.types import DeviceKind, Machine, Source
from vram_llm.planner.companions import companion_only_devices
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.types import HOST, Plan


def budgets_of(machine: Machine, reserve_bytes: int) -> dict[str, int]:
    """Bytes that models may use, by device id and "host"."""
    budgets = {device.id: device.budget_bytes(reserve_bytes) for device in machine.devices}
    return {**budgets, HOST: machine.host.budget_bytes(reserve_bytes)}


def machine_within(
    machine: Machine, ids: Collection[str], budgets: Mapping[str, int], reserve_bytes: int
) -> Machine:
    """`machine` with only the devices `ids`, with `budgets` there and on the host after the reserve."""
    devices = tuple(
        replace(device, free_bytes=min(budgets[device.id] + reserve_bytes, device.free_bytes))
        for device in machine.devices
        if device.id in ids
    )
    available = min(budgets[HOST] + reserve_bytes, machine.host.available_bytes)
    return replace(machine, devices=devices, host=replace(machine.host, available_bytes=available))


def uses_of(estimate: Estimate) -> dict[str, int]:
    """Bytes by device id and "host"; the host's include those of devices that share its memory."""
    uses = {use.id: use.total_bytes for use in estimate.devices}
    return {**uses, HOST: estimate.host.total_bytes + sum(use.shared_bytes for use in estimate.devices)}


def uses_of_plan(plan: Plan) -> dict[str, int]:
    """Like `uses_of`, with companions on further devices and the host's memory for idle conversations."""
    uses = uses_of(plan.estimate)
    uses |= {use.id: use.total_bytes for use in companion_only_devices(plan)}
    uses[HOST] += plan.serving.slots_ram_bytes or 0
    return uses


def one_program_devices(machine: Machine) -> tuple[frozenset[str], ...]:
    """Groups of devices that serve one program at a time: those of each RPC worker (rpc_serve_client)."""
    workers: dict[str | None, list[str]] = {}
    for device in machine.devices:
        if device.kind is DeviceKind.RPC:
            workers.setdefault(device.endpoint, []).append(device.id)
    return tuple(frozenset(ids) for ids in workers.values())


def without(
    budgets: Mapping[str, int],
    uses: Iterable[Mapping[str, int]],
    one_program: Iterable[frozenset[str]] = (),
) -> dict[str, int]:
    """The budgets less `uses`; 0 on devices that serve one program at a time and are in use."""
    left, groups = dict(budgets), tuple(one_program)
    for each in uses:
        for device_id, n_bytes in each.items():
            left[device_id] = max(left.get(device_id, 0) - n_bytes, 0)
        for group in groups:
            if group & each.keys():
                left |= dict.fromkeys(group & left.keys(), 0)
    return left


def free_budgets(
    machine: Machine,
    reserve_bytes: int,
    residents: Iterable[Plan],
    one_program: Iterable[frozenset[str]] = (),
) -> dict[str, int]:
    """Budgets on a machine as it is now, on which `residents` are loaded.

    The free bytes of a driver exclude theirs; a limit that the user gave has to hold them too.
    """
    uses = [uses_of_plan(plan) for plan in residents]
    left = budgets_of(machine, reserve_bytes)
    limited = {device.id for device in machine.devices if device.memory_source is Source.GIVEN}
    of_limited = [{name: n for name, n in each.items() if name in limited} for each in uses]
    in_use = [group for group in one_program if any(group & each.keys() for each in uses)]
    left = without(left, of_limited)
    return {name: 0 if any(name in group for group in in_use) else n for name, n in left.items()}


def machine_without(machine: Machine, loaded: Iterable[Plan]) -> Machine:
    """The machine as it would be if plans that are loaded on it now were not.

    A fleet that is running is planned for it, because the free bytes of a driver exclude theirs.
    """
    uses = [uses_of_plan(plan) for plan in loaded]

    def held(name: str) -> int:
        return sum(each.get(name, 0) for each in uses)

    devices = tuple(
        device
        if device.memory_source is Source.GIVEN
        else replace(device, free_bytes=min(device.free_bytes + held(device.id), device.total_bytes))
        for device in machine.devices
    )
    host = machine.host
    available = min(host.available_bytes + held(HOST), host.total_bytes)
    return replace(machine, devices=devices, host=replace(host, available_bytes=available))
