"""Devices that may be slower than the host: the planner uses them only if the plan with them is better.

A worker behind a slow link is one: each token crosses the link twice, whatever the worker computes.

A device of assumed speed stays idle if the model fits without it, because it may not help. If the model does
not fit, or if a device is known to read more slowly than the host, predicted times decide between the device
and more layers on the host.
"""

from collections.abc import Iterator
from dataclasses import replace

from vram_llm.machine.assumed_speed import device_speed, has_assumed_speed, host_speed
from vram_llm.machine.types import Device, DeviceKind, Host, Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.types import Objective, Workload


def machines_to_try(
    profile: ModelProfile, machine: Machine, workload: Workload
) -> Iterator[tuple[Machine, bool]]:
    """`machine` without its slow devices, then with more and more of them; known speeds come first.

    The second value is whether all missing devices have an assumed speed. Only the whole machine is tried if
    the objective ignores speed, if the user gives the split, or if all devices are slow workers, which the
    user has named in order to use them.
    """
    by_time = workload.objective in (Objective.LATENCY, Objective.THROUGHPUT)
    ranks = _slow(profile, machine) if by_time and workload.tensor_split is None else {}
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


def _slow(profile: ModelProfile, machine: Machine) -> dict[str, tuple[bool, float]]:
    """The ranks of devices of assumed speed, or maybe slower than the host; lower ranks come first."""
    host_rate = host_speed(machine.host).read_bytes_per_s.value
    reads = {device.id: device_speed(device).read_bytes_per_s.value for device in machine.devices}
    return {
        device.id: (has_assumed_speed(device), -reads[device.id])
        for device in machine.devices
        if has_assumed_speed(device)
        or reads[device.id] < host_rate
        or _waits_for_link(profile, device, machine.host)
    }


def _waits_for_link(profile: ModelProfile, device: Device, host: Host) -> bool:
    """Whether the host would read the weights that a worker has room for before the worker has answered."""
    if device.kind is not DeviceKind.RPC or not profile.total_bytes:
        return False
    share = min(device.free_bytes / profile.total_bytes, 1.0)
    n_bytes, speed = share * profile.active_bytes_per_token, device_speed(device)
    split_s = 0.0 if speed.split_s is None else speed.split_s.value
    on_device_s = speed.step_overhead_s.value + split_s + n_bytes / speed.read_bytes_per_s.value
    return on_device_s > n_bytes / host_speed(host).read_bytes_per_s.value
