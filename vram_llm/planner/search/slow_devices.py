"""Devices that may be slower than the host: the planner uses them only if the plan with them is better.

A device of assumed speed stays idle if the model fits without it, because it may not help. If the model does
not fit, or if a device is known to read more slowly than the host, predicted times decide between the device
and more layers on the host.
"""

from collections.abc import Iterator
from dataclasses import replace

from vram_llm.machine.assumed_speed import device_speed, has_assumed_speed, host_speed
from vram_llm.machine.types import DeviceKind, Machine
from vram_llm.planner.types import Objective, Workload


def machines_to_try(machine: Machine, workload: Workload) -> Iterator[tuple[Machine, bool]]:
    """`machine` without its slow devices, then with more and more of them; known speeds come first.

    The second value is whether all missing devices have an assumed speed. Only the whole machine is tried if
    the objective ignores speed, if the user gives the split, or if all devices are slow workers, which the
    user has named in order to use them.
    """
    by_time = workload.objective in (Objective.LATENCY, Objective.THROUGHPUT)
    ranks = _slow(machine) if by_time and workload.tensor_split is None else {}
    if len(ranks) == len(machine.devices):
        workers = {device.id for device in machine.devices if device.kind is DeviceKind.RPC}
        ranks = {
            device_id: rank
            for device_id, rank in ranks.items()
            if device_id in workers and len(workers) < len(ranks)
        }
    for highest in (None, *sorted(set(ranks.values()))):
        missing = [
            device
            for device in machine.devices
            if (rank := ranks.get(device.id)) is not None and (highest is None or rank > highest)
        ]
        devices = tuple(device for device in machine.devices if device not in missing)
        yield replace(machine, devices=devices), all(map(has_assumed_speed, missing))


def _slow(machine: Machine) -> dict[str, tuple[bool, float]]:
    """The ranks of devices that have an assumed speed or are slower than the host; lower ranks come first."""
    host_rate = host_speed(machine.host).read_bytes_per_s.value
    reads = {device.id: device_speed(device).read_bytes_per_s.value for device in machine.devices}
    return {
        device.id: (has_assumed_speed(device), -reads[device.id])
        for device in machine.devices
        if has_assumed_speed(device) or reads[device.id] < host_rate
    }
