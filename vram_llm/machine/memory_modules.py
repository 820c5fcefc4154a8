"""The kind and the bandwidth of the computer's memory, from the modules that its firmware lists.

systemd-udevd (248 and later) copies the firmware's table (SMBIOS type 17) to /run/udev/data/+dmi:id, which
every user can read (udev's program dmi_memory_id): MEMORY_DEVICE_n_LOCATOR, _BANK_LOCATOR, _SIZE, _TYPE,
_DATA_WIDTH, _CONFIGURED_SPEED_MTS. The tables of virtual machines have no usable speeds.
"""

import re
from pathlib import Path

from vram_llm.machine.types import Fact, Source

_UDEV_DATA = Path("run/udev/data/+dmi:id")
_PROPERTY = re.compile(r"E:MEMORY_DEVICE_(\d+)_([A-Z_]+)=(.*)")
# "P0 CHANNEL A", "Controller0-ChannelA-DIMM0", "DIMM_A1", "DIMMB2", "CPU1_DIMM_C1"
_CHANNEL = re.compile(r"(?:channel|chan|dimm)[ _-]?([a-p])(?![a-z])", re.IGNORECASE)
_SOCKET = re.compile(r"\b(?:cpu|proc|p|node|controller) ?(\d+)", re.IGNORECASE)
_DESKTOP_CHANNELS = 2
_MAX_MTS = 20_000  # no module is faster


def memory_bandwidth(root: Path) -> Fact | None:
    """Bytes per second of all channels together; None if the firmware's list cannot be read."""
    modules = _modules(root)
    rates = [rate for module in modules if (rate := _bytes_per_s(module)) is not None]
    if not rates or len(rates) < len(modules):
        return None
    return Fact(_channels(modules) * min(rates), Source.ESTIMATED)


def memory_kind(root: Path) -> str | None:
    """The kind of memory, with the slowest module's rate and channels: "DDR5-6000 2ch"; None if unknown."""
    modules = _modules(root)
    kinds = {module.get("TYPE", "") for module in modules}
    speeds = [_transfers(module) for module in modules]
    if len(kinds) != 1 or not all(speeds) or not kinds.pop().startswith(("DDR", "LPDDR")):
        return None
    return f"{modules[0]['TYPE']}-{min(speeds)} {_channels(modules)}ch"


def _modules(root: Path) -> list[dict[str, str]]:
    """The fields of each slot that has a module."""
    try:
        text = (root / _UDEV_DATA).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    slots: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if (match := _PROPERTY.fullmatch(line.strip())) is not None:
            slots.setdefault(match[1], {})[match[2]] = match[3]
    return [slot for slot in slots.values() if _number(slot, "SIZE")]


def _channels(modules: list[dict[str, str]]) -> int:
    """The number of channels that the locators name; without names, one for each module, at most two."""
    channels = {channel for module in modules if (channel := _channel(module)) is not None}
    return len(channels) or min(len(modules), _DESKTOP_CHANNELS)


def _transfers(module: dict[str, str]) -> int:
    """Millions of transfers per second; 0 if unknown."""
    transfers = _number(module, "CONFIGURED_SPEED_MTS") or _number(module, "SPEED_MTS")
    return transfers if transfers <= _MAX_MTS else 0


def _bytes_per_s(module: dict[str, str]) -> float | None:
    width_bits = _number(module, "DATA_WIDTH") or 64
    return _transfers(module) * 1e6 * width_bits / 8 or None


def _channel(module: dict[str, str]) -> tuple[str, ...] | None:
    """A module's sockets and the letter of its channel; None if its locators name no channel."""
    locators = f"{module.get('BANK_LOCATOR', '')} {module.get('LOCATOR', '')}"
    channel = _CHANNEL.search(locators)
    if channel is None:
        return None
    return (*_SOCKET.findall(locators), channel[1].upper())


def _number(module: dict[str, str], field: str) -> int:
    text = module.get(field, "")
    return int(text) if text.isdecimal() else 0
