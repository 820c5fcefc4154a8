"""The host's memory as one pool with devices that share it: GB10, Jetson, Apple, integrated graphics."""

from collections.abc import Iterable
from dataclasses import replace

from vram_llm.machine.types import Device
from vram_llm.planner.estimates import Estimate


def divide_host_memory(estimate: Estimate, devices: Iterable[Device]) -> Estimate:
    """`estimate` with the host's budget divided among the host and the devices that share its memory.

    The budget of each is the pool minus the bytes of the others, for a device at most its own budget. So if
    the pool is too small, each of them is over its budget by the missing bytes. The host's budget must not be
    divided already.
    """
    dedicated = {device.id: device.set_aside_bytes for device in devices if device.shares_host_memory}
    shared = {
        use.id: max(use.total_bytes - dedicated[use.id], 0) for use in estimate.devices if use.id in dedicated
    }
    if not shared:
        return estimate
    host_budget_bytes = estimate.host.budget_bytes - sum(shared.values())
    free_bytes = host_budget_bytes - estimate.host.total_bytes
    uses = (
        replace(
            use,
            shared_bytes=shared[use.id],
            budget_bytes=min(use.budget_bytes, dedicated[use.id] + shared[use.id] + free_bytes),
        )
        if use.id in shared
        else use
        for use in estimate.devices
    )
    host = replace(estimate.host, budget_bytes=host_budget_bytes)
    return replace(estimate, devices=tuple(uses), host=host)
