"""Devices and host under all engines of a fleet: planned and held bytes are sums over the models."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.engine_protocol import Engine
from vram_llm.machine.host import HostReading
from vram_llm.machine.types import Device
from vram_llm.server.fleet.ports import ServedFleet
from vram_llm.server.fleet.routed_models import RoutedModel, RoutedModels
from vram_llm.server.metrics.device_status import devices_of, host_of, idle_device
from vram_llm.server.metrics.status_reply import (
    BufferBytes,
    PartElsewhere,
    PlannedBytes,
    StatusDevice,
    StatusHost,
)
from vram_llm.server.metrics.system_readings import SystemReading

B = TypeVar("B", bound=BufferBytes)


@dataclass(frozen=True, slots=True)
class RunningModel:
    """A model with an engine, and its activity at one moment, with the counts of its earlier loads."""

    model: RoutedModel
    engine: Engine
    activity: EngineActivity


def running_models(fleet: ServedFleet, models: RoutedModels) -> list[RunningModel]:
    """The models that have engines, in the plan's order."""
    found = [(model, fleet.engine(model.name), fleet.activity(model.name)) for model in models]
    return [
        RunningModel(model, engine, activity)
        for model, engine, activity in found
        if engine is not None and activity is not None
    ]


def fleet_devices(
    devices: Sequence[Device], running: Iterable[RunningModel], reading: SystemReading
) -> list[StatusDevice]:
    """The devices of the machine. A figure of one model, as its layers, is shown if it is alone there."""
    of_models = [
        device
        for each in running
        for device in devices_of(each.activity.plan, each.engine.info, each.activity.pid, reading)
    ]
    shown = []
    for index, device in enumerate(devices):
        here = [each for each in of_models if each.id == device.id and _is_used(each)]
        idle = idle_device(index, device, reading)
        shown.append(_merged(idle, here) if here else idle)
    return shown


def fleet_host(running: Sequence[RunningModel], reading: SystemReading) -> StatusHost:
    """The host, with the sums of all models."""
    host: HostReading = reading.host
    hosts = [host_of(each.activity.plan, each.engine.info, reading) for each in running]
    nothing = PlannedBytes(
        weights_bytes=0,
        context_bytes=0,
        compute_bytes=0,
        overhead_bytes=0,
        reserve_bytes=0,
        companions_bytes=0,
    )
    return StatusHost(
        total_bytes=host.total_bytes,
        available_bytes=host.available_bytes,
        swap_used_bytes=host.swap_used_bytes,
        planned=_planned_sum([nothing, *(each.planned for each in hosts)]),
        measured=_measured_sum(each.measured for each in hosts),
        own_bytes=host.process_bytes,
        layers=hosts[0].layers if len(hosts) == 1 else None,
        moved=_parts(hosts),
    )


def _is_used(device: StatusDevice) -> bool:
    planned = device.planned
    return (
        planned.weights_bytes + planned.context_bytes + planned.compute_bytes + planned.companions_bytes > 0
    )


def _merged(idle: StatusDevice, here: Sequence[StatusDevice]) -> StatusDevice:
    own = [each.own_bytes for each in here]
    own_bytes = None if None in own else sum(n or 0 for n in own)
    used = idle.other_bytes  # by all programs
    return idle.model_copy(
        update={
            "planned": _planned_sum([each.planned for each in here]),
            "measured": _measured_sum(each.measured for each in here),
            "own_bytes": own_bytes,
            "other_bytes": None if own_bytes is None or used is None else max(used - own_bytes, 0),
            "layers": here[0].layers if len(here) == 1 else None,
            "moved": _parts(here),
        }
    )


def _planned_sum(every: Sequence[PlannedBytes]) -> PlannedBytes:
    """The sum of all kinds. The reserve is kept free once."""
    total = reduce(_sum, every)
    return total.model_copy(update={"reserve_bytes": max(each.reserve_bytes for each in every)})


def _measured_sum(every: Iterable[BufferBytes | None]) -> BufferBytes | None:
    """The sum of the reports that there are; None: there is none."""
    known = [each for each in every if each is not None]
    return reduce(_sum, known) if known else None


def _sum(one: B, other: B) -> B:
    return one.model_copy(update={name: value + getattr(other, name) for name, value in one})


def _parts(every: Sequence[StatusDevice | StatusHost]) -> list[PartElsewhere]:
    return every[0].moved if len(every) == 1 else []
