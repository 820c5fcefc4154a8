"""The plans of a load, for the memory that is free now."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from vram_llm.errors import DoesNotFit
from vram_llm.planner.fleet.types import PackedModel, PlacedReplica
from vram_llm.planner.smaller_plan import PlanReductions
from vram_llm.planner.types import HOST, Plan
from vram_llm.units import format_bytes

FreeBytes = Callable[[Collection[str]], Mapping[str, int]]
"""Free bytes of the devices of these ids and of "host", as far as they are known. Called in a thread."""

_LOOKS = 8  # a driver gives back the memory of a process some time after its end
_LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Memory in which a model, or one copy of it, is planned again."""

    left: Mapping[str, int]  # budgets less the bytes of all other models and copies, by device id and "host"
    residents: tuple[Plan, ...]  # of those others, as far as they are loaded


class FleetReplan(Protocol):
    """Plans models again for the machine as it is now. Called in a thread. Raises DoesNotFit by how much."""

    def __call__(self, name: str, room: Room) -> PackedModel:
        """A model in another place, because other programs have taken the memory of its own."""

    def replica(self, name: str, plan: Plan, room: Room, reductions: PlanReductions) -> PlacedReplica:
        """A copy in place of `plan`, with `reductions` after memory ran out, or because its file changed."""


@dataclass(frozen=True, slots=True)
class LoadPlans:
    """The free memory before a load, and other plans if it is too little."""

    free_bytes: FreeBytes | None = None
    replan: FleetReplan | None = None

    async def short_bytes(self, needed: Mapping[str, int]) -> dict[str, int]:
        """Missing bytes by device, looked at again for a while if there are any."""
        short: dict[str, int] = {}
        for look in range(_LOOKS if self.free_bytes is not None else 0):
            assert self.free_bytes is not None
            if look:
                await asyncio.sleep(_LOOK_EVERY_S)  # drivers free memory late
            free = await asyncio.to_thread(self.free_bytes, needed.keys())
            short = {
                device: n_bytes - free[device]
                for device, n_bytes in needed.items()
                if device in free and n_bytes > free[device]
            }
            if not short:
                break
        return short


def refusal(packed: PackedModel, short: Mapping[str, int]) -> DoesNotFit:
    """The error for a model that lacks bytes on devices."""
    return DoesNotFit(
        f"{packed.spec.name} does not fit into the memory that is free now: {places(packed, short)}; other "
        "programs hold the rest. End them, or give the model less context",
        short_bytes=sum(short.values()),
        host_is_short=HOST in short,
    )


def places(packed: PackedModel, short: Mapping[str, int]) -> str:
    """The devices that lack bytes, by how much."""
    needed = packed.uses
    return ", ".join(
        f"{_place(packed, device)} (needs {format_bytes(needed[device])}, lacks {format_bytes(missing)})"
        for device, missing in short.items()
    )


def loads_alike(one: PackedModel, other: PackedModel) -> bool:
    """Whether the same engines with the same memory run both, whatever was free when they were planned."""
    return [_load(replica.plan) for replica in one.replicas] == [
        _load(replica.plan) for replica in other.replicas
    ]


def _load(plan: Plan) -> tuple[object, ...]:
    """All that an engine reads of a plan."""
    devices = {device.id: (device.uuid, device.endpoint) for device in plan.devices if device.id in plan.used}
    return plan.model, plan.context, plan.placement, plan.companions, plan.serving, devices


def _place(packed: PackedModel, device_id: str) -> str:
    if device_id == HOST:
        return "the host"
    devices = (
        device for replica in packed.replicas for device in replica.plan.devices if device.id == device_id
    )
    return next((f"{device.name} ({device_id})" for device in devices), device_id)
