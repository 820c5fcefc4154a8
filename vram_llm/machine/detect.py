"""Detect devices and host. Figures come from the driver, else from the catalog, else they are unknown."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vram_llm.errors import UnknownDevice
from vram_llm.machine import catalog, graphics, nvml, processors
from vram_llm.machine.backend_devices import Backends, join
from vram_llm.machine.datasheet_speed import pcie_link, with_speeds
from vram_llm.machine.host import ROOT, read_host
from vram_llm.machine.types import Device, Fact, Host, Machine, Source
from vram_llm.machine.what_if import parse_rigs
from vram_llm.machine.what_if_host import NO_WORDS, HostWords
from vram_llm.units import GIB


def detect(backends: Backends, root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Machine:
    """This machine: the host, NVIDIA cards through NVML, and every device that `backends` list.

    Notes name facts that are unknown and devices that cannot be used.
    """
    host = read_host(root)
    cards = nvml.cards(host)
    visible = nvml.visible(cards, environ)
    hidden = set(cards.devices) - set(visible.devices)
    found = join(visible.devices, hidden, backends, host, graphics.read_set_aside(root))
    devices = tuple(_with_catalog(device, host) for device in found.devices)
    pool = next((device.bandwidth_bytes_per_s for device in devices if device.shares_host_memory), None)
    host = dataclasses.replace(host, bandwidth_bytes_per_s=host.bandwidth_bytes_per_s or pool)
    others = graphics.notes(graphics.read_graphics(root), backends, devices, root)
    notes = (*visible.notes, *found.notes, *others)
    if devices:
        notes = tuple(note for note in notes if note != nvml.NO_DRIVER)
    return with_speeds(Machine(devices=devices, host=host, notes=notes))


def what_if(rigs: Sequence[str], host: Host | None = None, words: HostWords = NO_WORDS) -> Machine:
    """A machine of what-if cards ("RTX 4090 + 2x RTX 3060", "24GB@1008GB/s") in place of the local ones.

    Its host is the one that `words` or a rig describe ("RTX 4090 on 64GiB DDR5-6000"), else `host`, else this
    computer. Raises UnknownDevice for a card or processor that is not in the catalog, BadHost.
    """
    rig = parse_rigs(rigs, words)
    found = rig.host or host or read_host()
    if rig.disk_bytes_per_s is not None:
        found = dataclasses.replace(found, disk_bytes_per_s=rig.disk_bytes_per_s)
    return with_speeds(Machine(devices=rig.devices, host=found, notes=rig.notes))


def on_host(machine: Machine, words: HostWords) -> Machine:
    """`machine` with the host that `words` describe; if they describe a disk alone, with that disk.

    Raises UnknownDevice, BadHost.
    """
    other = what_if((), machine.host, words)
    return dataclasses.replace(machine, host=other.host, notes=(*machine.notes, *other.notes))


def _with_catalog(device: Device, host: Host) -> Device:
    """`device` with the catalog's link and bandwidth where the driver gives none.

    The bandwidth of some processors' graphics depends on the memory that they are sold with.
    """
    try:
        card = catalog.find(device.name, device.total_bytes)
    except UnknownDevice:
        return device
    bandwidth = device.bandwidth_bytes_per_s
    if bandwidth is None and card.bandwidth_bytes_per_s is not None:
        bandwidth = Fact(card.bandwidth_bytes_per_s, Source.CATALOG)
    if bandwidth is None and card.shares_host_memory:
        made = processors.with_graphics(card.name, round(host.total_bytes / GIB))
        if made is not None and made.bandwidth_bytes_per_s is not None:
            bandwidth = Fact(made.bandwidth_bytes_per_s, Source.CATALOG)
    link = device.link or pcie_link(card.pcie_generation, card.pcie_lanes)
    return dataclasses.replace(device, bandwidth_bytes_per_s=bandwidth, link=link)
