"""Memory for the models of a fleet, and the machine as one of them may use it."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from vram_llm.machine.types import DeviceKind, Machine
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
