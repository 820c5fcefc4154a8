"""Detect devices and host. Figures are the driver's, else those of the catalog, else unknown."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vram_llm.errors import UnknownDevice
from vram_llm.machine import catalog, graphics, nvml, processors
from vram_llm.machine.backend_devices import Backends, join_devices
from vram_llm.machine.datasheet_speed import pcie_link, with_datasheet_speeds
from vram_llm.machine.host import ROOT, read_host
from vram_llm.machine.types import Device, Fact, Host, Machine, Source, SumFacts
from vram_llm.machine.what_if import parse_rigs
from vram_llm.machine.what_if_host import NO_DESCRIPTION, HostDescription
from vram_llm.units import GIB


def detect(backends: Backends, root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Machine:
    """This machine: the host, NVIDIA cards through NVML, and every device that `backends` list.

    Notes name unknown facts and devices that cannot be used.
    """
    host = read_host(root)
    cards = nvml.read_cards(host)
    visible = nvml.visible_cards(cards, environ)
    hidden = set(cards.devices) - set(visible.devices)
    joined = join_devices(visible.devices, hidden, backends, host, graphics.read_dedicated_memory(root))
    devices = tuple(_with_catalog(device, host) for device in joined.devices)
    shared = next((device.bandwidth_bytes_per_s for device in devices if device.shares_host_memory), None)
    host = dataclasses.replace(host, bandwidth_bytes_per_s=host.bandwidth_bytes_per_s or shared)
    unused = graphics.missing_backend_notes(graphics.read_adapters(root), backends, devices, root)
    notes = (*visible.notes, *joined.notes, *unused)
    if devices:
        notes = tuple(note for note in notes if note != nvml.NO_DRIVER)
    machine = Machine(devices=devices, host=host, notes=notes, sums=sum_facts(backends, environ))
    return with_datasheet_speeds(machine)


def sum_facts(backends: Backends, environ: Mapping[str, str] = os.environ) -> SumFacts:
    """What the driver and `backends` say of sums between cards of this computer."""
    if "CUDA" not in backends.built:
        return SumFacts()
    return SumFacts(pairs=nvml.card_pairs(), uses_nccl=backends.uses_nccl(environ))


def what_if(
    rigs: Sequence[str], host: Host | None = None, description: HostDescription = NO_DESCRIPTION
) -> Machine:
    """A machine of what-if cards ("RTX 4090 + 2x RTX 3060", "24GB@1008GB/s") in place of the local ones.

    Its host is the one of `description` or of a rig ("RTX 4090 on 64GiB DDR5-6000"), else `host`, else this
    computer. Raises UnknownDevice for a card or processor that is not in the catalog, and BadHost for a bad
    description of a host.
    """
    rig = parse_rigs(rigs, description)
    host = rig.host or host or read_host()
    if rig.disk_bytes_per_s is not None:
        host = dataclasses.replace(host, disk_bytes_per_s=rig.disk_bytes_per_s)
    return with_datasheet_speeds(Machine(devices=rig.devices, host=host, notes=rig.notes))


def with_host(machine: Machine, description: HostDescription) -> Machine:
    """`machine` with the host that `description` describes, or with its disk if it describes nothing else.

    Raises UnknownDevice for an unknown processor, and BadHost for a bad description.
    """
    described = what_if((), machine.host, description)
    return dataclasses.replace(machine, host=described.host, notes=(*machine.notes, *described.notes))


def _with_catalog(device: Device, host: Host) -> Device:
    """`device` with the catalog's link and bandwidth, if the driver gives none.

    The bandwidth of some integrated graphics depends on the size of the memory, so it is the processor's.
    """
    try:
        card = catalog.find_card(device.name, device.total_bytes)
    except UnknownDevice:
        return device
    bandwidth = device.bandwidth_bytes_per_s
    if bandwidth is None and card.bandwidth_bytes_per_s is not None:
        bandwidth = Fact(card.bandwidth_bytes_per_s, Source.CATALOG)
    if bandwidth is None and card.shares_host_memory:
        processor = processors.processor_with_graphics(card.name, round(host.total_bytes / GIB))
        if processor is not None and processor.bandwidth_bytes_per_s is not None:
            bandwidth = Fact(processor.bandwidth_bytes_per_s, Source.CATALOG)
    link = device.link or pcie_link(card.pcie_generation, card.pcie_lanes)
    return dataclasses.replace(device, bandwidth_bytes_per_s=bandwidth, link=link)
