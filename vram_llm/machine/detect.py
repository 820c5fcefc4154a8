"""Devices and host together: the driver's figures first, then the catalog's, else unknown."""

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from vram_llm.errors import UnknownDevice
from vram_llm.machine import catalog, nvml
from vram_llm.machine.datasheet_speed import pcie_link, with_speeds
from vram_llm.machine.host import ROOT, read_host, read_text
from vram_llm.machine.types import Device, Fact, Host, Machine, Source
from vram_llm.machine.what_if import notes, parse_gpus

_PCI_VENDORS = {"0x1002": "AMD", "0x8086": "Intel"}


def detect(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Machine:
    """This machine: NVIDIA cards through NVML, and the host. What was not looked for is in the notes."""
    host = read_host(root)
    found = nvml.visible(nvml.cards(host), environ)
    devices = tuple(_with_catalog(device) for device in found.devices)
    return with_speeds(Machine(devices=devices, host=host, notes=(*found.notes, *_other_graphics(root))))


def what_if(rigs: Sequence[str], host: Host | None = None) -> Machine:
    """A machine of what-if cards ("RTX 4090 + 2x RTX 3060", "24GB@1008GB/s") in place of the local ones.

    Raises UnknownDevice for a card that is not in the catalog.
    """
    return with_speeds(Machine(devices=parse_gpus(rigs), host=host or read_host(), notes=notes(rigs)))


def _with_catalog(device: Device) -> Device:
    """`device` with the catalog's link, and its bandwidth where the driver gives none."""
    try:
        card = catalog.find(device.name, device.total_bytes)
    except UnknownDevice:
        return device
    bandwidth = device.bandwidth_bytes_per_s
    if bandwidth is None and card.bandwidth_bytes_per_s is not None:
        bandwidth = Fact(card.bandwidth_bytes_per_s, Source.CATALOG)
    link = pcie_link(card.pcie_generation, card.pcie_lanes)
    return dataclasses.replace(device, bandwidth_bytes_per_s=bandwidth, link=link)


def _other_graphics(root: Path) -> tuple[str, ...]:
    """A note for each maker whose graphics this machine has and NVML cannot describe."""
    makers = set()
    if (root / "dev/kfd").exists():
        makers.add("AMD")
    for path in root.glob("sys/class/drm/card*/device/vendor"):
        maker = _PCI_VENDORS.get(read_text(path))
        if maker:
            makers.add(maker)
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        makers.add("Apple")
    return tuple(
        f"{maker} graphics are present but not read: describe the card with --gpu to plan for it."
        for maker in sorted(makers)
    )
