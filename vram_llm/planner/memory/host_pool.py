"""The host's memory as one pool, which devices without their own use too: GB10, Jetson, Apple, integrated."""

from collections.abc import Iterable
from dataclasses import replace

from vram_llm.machine.types import Device
from vram_llm.planner.estimates import Estimate


def pooled(estimate: Estimate, devices: Iterable[Device]) -> Estimate:
    """`estimate` with the host's budget divided among the host and the devices that share its memory.

    Each has the bytes that the others leave, a device at most its own budget: each of them is over its budget
    by the bytes that the pool is short of. The host's budget must not be divided already.
    """
    set_aside = {device.id: device.set_aside_bytes for device in devices if device.shares_host_memory}
    shared = {
        use.id: max(use.total_bytes - set_aside[use.id], 0) for use in estimate.devices if use.id in set_aside
    }
    if not shared:
        return estimate
    left = estimate.host.budget_bytes - sum(shared.values())
    room = left - estimate.host.total_bytes
    uses = (
        replace(
            use,
            shared_bytes=shared[use.id],
            budget_bytes=min(use.budget_bytes, set_aside[use.id] + shared[use.id] + room),
        )
        if use.id in shared
        else use
        for use in estimate.devices
    )
    return replace(estimate, devices=tuple(uses), host=replace(estimate.host, budget_bytes=left))
