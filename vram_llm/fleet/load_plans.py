"""The plans of a load, for the memory that is free now."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vram_llm.errors import DoesNotFit
from vram_llm.planner.fleet.types import PackedModel
from vram_llm.planner.types import HOST, Plan
from vram_llm.units import format_bytes

log = logging.getLogger("vram_llm.fleet")

FreeBytes = Callable[[], Mapping[str, int]]
"""Bytes that are free now by device id and "host", as far as they are known. Called in a thread."""

FleetReplan = Callable[[str, tuple[Plan, ...]], PackedModel]
"""Places a model again for the machine as it is now, beside the plans of the other residents.

Called in a thread. Raises DoesNotFit with the missing bytes.
"""

_LOOKS = 8  # a driver gives back the memory of a process some time after its end
_LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class LoadPlans:
    """Looks at the free memory before a load, and asks for smaller plans if other programs have taken it."""

    free_bytes: FreeBytes | None = None
    replan: FleetReplan | None = None

    async def packed_now(self, packed: PackedModel, residents: tuple[Plan, ...]) -> PackedModel:
        """The model in its place, or in another one that fits now. Raises DoesNotFit."""
        short = await self._short_bytes(packed.uses)
        if not short:
            return packed
        name, needed = packed.spec.name, packed.uses
        places = ", ".join(
            f"{_place(packed, device)} (needs {format_bytes(needed[device])}, lacks {format_bytes(missing)})"
            for device, missing in short.items()
        )
        if self.replan is None:
            raise DoesNotFit(
                f"{name} does not fit into the memory that is free now: {places}; other programs hold the "
                "rest. End them, or give the model less context",
                short_bytes=sum(short.values()),
                host_is_short=HOST in short,
            )
        log.warning("%s is planned again, for other programs hold memory: %s", name, places)
        return await asyncio.to_thread(self.replan, name, residents)

    async def _short_bytes(self, needed: Mapping[str, int]) -> dict[str, int]:
        """Missing bytes by device, looked at again for a while if there are any."""
        short: dict[str, int] = {}
        for look in range(_LOOKS if self.free_bytes is not None else 0):
            assert self.free_bytes is not None
            if look:
                await asyncio.sleep(_LOOK_EVERY_S)
            free = await asyncio.to_thread(self.free_bytes)
            short = {
                device: n_bytes - free[device]
                for device, n_bytes in needed.items()
                if device in free and n_bytes > free[device]
            }
            if not short:
                break
        return short


def loads_alike(one: PackedModel, other: PackedModel) -> bool:
    """Whether the same engines with the same memory run both, whatever was free when they were planned."""
    return [_load(way.plan) for way in one.ways] == [_load(way.plan) for way in other.ways]


def _load(plan: Plan) -> tuple[object, ...]:
    """All that an engine reads of a plan."""
    devices = {device.id: (device.uuid, device.endpoint) for device in plan.devices if device.id in plan.used}
    return plan.model, plan.context, plan.placement, plan.companions, plan.serving, devices


def _place(packed: PackedModel, device_id: str) -> str:
    if device_id == HOST:
        return "the host"
    devices = (device for way in packed.ways for device in way.plan.devices if device.id == device_id)
    return next((f"{device.name} ({device_id})" for device in devices), device_id)
