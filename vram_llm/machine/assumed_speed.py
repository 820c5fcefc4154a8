"""Cautious speeds for devices and hosts of unknown speed; all have the source "assumed".

An RPC worker reports nothing about its device. It gets the speed of an old computer's processor: 20 GB/s of
memory, and 100 GFLOP/s in prompts (seven tokens of an 8B model per second). Its link is measured when a plan
asks for its devices; one that could not be measured has 1 Gbit/s and 0.5 ms each way. A card of unknown
bandwidth gets the speed of the slowest card of its kind in the catalog, or of graphics in a processor. The
speed of a host without a calibration is estimated from its memory. If the memory is unknown, the host gets
two channels of DDR4, or less if its cores read more slowly.
"""

import dataclasses

from vram_llm.machine.datasheet_speed import SPLIT_S, STEP_OVERHEAD_S, pcie_link, speed_from_datasheet
from vram_llm.machine.processor_speed import LAYER_OVERHEAD_S, estimated_speed, processor_speed
from vram_llm.machine.types import Device, DeviceKind, Fact, Host, Link, Machine, Source, Speed

WORKER_READ_BYTES_PER_S = 20e9
WORKER_LINK_BYTES_PER_S = 1e9 / 8
WORKER_LATENCY_S = 0.5e-3
HOST_READ_BYTES_PER_S = 30e9  # of two channels of DDR4-2666 and up
DISK_BYTES_PER_S = 500e6  # of a solid-state disk on SATA

_WORKER_FLOPS_PER_S = 100e9
_CARD_BYTES_PER_S = {DeviceKind.CUDA: 112e9, DeviceKind.METAL: 68e9}  # GTX 1050 Ti, M1
_SHARED_BYTES_PER_S = 50e9  # of graphics in a processor, for the other kinds
_CARD_FLOPS_PER_BYTE = 25.0  # the smallest figure of the generations in datasheet_speed.py
_ROW_SHARE = 0.25  # of the rate of prompts, for further rows of a small batch
_MESSAGES_S = 200e-6  # for each split of a graph on a worker, in addition to the link's latency


def with_assumed_speeds(machine: Machine) -> Machine:
    """`machine` with assumed figures in place of unknown speeds of its devices and its host."""
    host = dataclasses.replace(machine.host, speed=host_speed(machine.host))
    devices = (
        dataclasses.replace(device, speed=device_speed(device), link=device_link(device))
        for device in machine.devices
    )
    return dataclasses.replace(machine, devices=tuple(devices), host=host)


def has_assumed_speed(device: Device) -> bool:
    """Whether the device's rate of reading is an assumption."""
    return device_speed(device).read_bytes_per_s.source is Source.ASSUMED


def device_speed(device: Device) -> Speed:
    """A device's speed, with assumed figures in place of unknown ones."""
    if device.kind is DeviceKind.RPC:
        link = device_link(device)
        latency_s = WORKER_LATENCY_S if link is None else link.latency_s.value
        known = device.speed or _worker_speed(latency_s)
        worker_speed = _with_split_time(known, _MESSAGES_S + 2 * latency_s)
        return _with_compute_rates(worker_speed, _WORKER_FLOPS_PER_S)
    speed = device.speed
    if speed is None:
        bandwidth = Fact(_CARD_BYTES_PER_S.get(device.kind, _SHARED_BYTES_PER_S), Source.ASSUMED)
        speed = speed_from_datasheet(dataclasses.replace(device, bandwidth_bytes_per_s=bandwidth))
        assert speed is not None  # it has a bandwidth
        speed = dataclasses.replace(speed, row_flops_per_s=None, prompt_flops_per_s=None)
    speed = _with_split_time(speed, SPLIT_S)
    return _with_compute_rates(speed, _CARD_FLOPS_PER_BYTE * speed.read_bytes_per_s.value)


def device_link(device: Device) -> Link | None:
    """A device's link, or an assumed one if its speed is unknown too; None if only the link is unknown."""
    if device.link is not None or device.speed is not None:
        return device.link
    if device.kind is DeviceKind.RPC:
        return Link(latency_s=_assumed(WORKER_LATENCY_S), bytes_per_s=_assumed(WORKER_LINK_BYTES_PER_S))
    slot = pcie_link(3, 4)
    assert slot is not None
    return Link(latency_s=_assumed(slot.latency_s.value), bytes_per_s=_assumed(slot.bytes_per_s.value))


def offload_link(device: Device) -> Link:
    """The link over which weights of the host are sent to a device; if unknown, PCIe 3 with 16 lanes."""
    link = device_link(device) or pcie_link(3, 16)
    assert link is not None
    return link


def host_speed(host: Host) -> Speed:
    """The host's speed: measured, estimated from its memory, or assumed."""
    speed = host.speed or estimated_speed(host)
    assumed = processor_speed(host, _assumed(HOST_READ_BYTES_PER_S))
    if speed is None:
        return assumed
    assert assumed.prompt_flops_per_s is not None
    speed = _with_compute_rates(speed, assumed.prompt_flops_per_s.value)
    return dataclasses.replace(speed, split_s=speed.split_s or assumed.split_s)


def disk_speed(host: Host) -> Fact:
    """Bytes per second that the host reads from the disk with the model: known, or assumed."""
    return host.disk_bytes_per_s or _assumed(DISK_BYTES_PER_S)


def _worker_speed(latency_s: float) -> Speed:
    return Speed(
        read_bytes_per_s=_assumed(WORKER_READ_BYTES_PER_S),
        layer_overhead_s=_assumed(LAYER_OVERHEAD_S),
        step_overhead_s=_assumed(STEP_OVERHEAD_S + 2 * latency_s),
        row_flops_per_s=None,
        prompt_flops_per_s=None,
    )


def _with_compute_rates(speed: Speed, prompt_flops_per_s: float) -> Speed:
    """`speed` with assumed FLOP/s in place of unknown ones: `prompt_flops_per_s`, and a share for rows."""
    prompt = speed.prompt_flops_per_s or _assumed(prompt_flops_per_s)
    row = speed.row_flops_per_s or _assumed(_ROW_SHARE * prompt.value)
    return dataclasses.replace(speed, row_flops_per_s=row, prompt_flops_per_s=prompt)


def _with_split_time(speed: Speed, split_s: float) -> Speed:
    return dataclasses.replace(speed, split_s=speed.split_s or _assumed(split_s))


def _assumed(value: float) -> Fact:
    return Fact(value, Source.ASSUMED)
