"""Devices that may do worse than the host: plans are made without them, and with them where that is better.

Of a device whose speed is assumed nobody knows whether it helps: it stays idle where the model fits without
it. Where the model does not, and for a device that reads slower than the host, the predicted times decide
between the device and more layers on the host.
"""

from collections.abc import Iterator
from dataclasses import replace

from vram_llm.machine.assumed_speed import device_speed, has_assumed_speed, host_speed
from vram_llm.machine.types import DeviceKind, Machine
from vram_llm.planner.types import Objective, Workload


def rigs_to_try(machine: Machine, workload: Workload) -> Iterator[tuple[Machine, bool]]:
    """`machine` without its slow devices, then with more of them, those of known speed first.

    With each, whether the devices still left out are all of assumed speed. The whole machine alone where
    memory decides or the user dictates the split, and where there are only such workers: their user wants
    them used.
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
    for most in (None, *sorted(set(ranks.values()))):
        left_out = [
            device
            for device in machine.devices
            if (rank := ranks.get(device.id)) is not None and (most is None or rank > most)
        ]
        devices = tuple(device for device in machine.devices if device not in left_out)
        yield replace(machine, devices=devices), all(map(has_assumed_speed, left_out))


def _slow(machine: Machine) -> dict[str, tuple[bool, float]]:
    """Devices of assumed speed and those that read slower than the host; the least rank is tried first."""
    least = host_speed(machine.host).read_bytes_per_s.value
    reads = {device.id: device_speed(device).read_bytes_per_s.value for device in machine.devices}
    return {
        device.id: (has_assumed_speed(device), -reads[device.id])
        for device in machine.devices
        if has_assumed_speed(device) or reads[device.id] < least
    }
