"""Faults of a card, and what to do: pure functions, for `watch` and `doctor`."""

from vram_llm.errors import UnknownDevice
from vram_llm.machine import catalog
from vram_llm.machine.device_state import DeviceState, ProcessState
from vram_llm.machine.health_warnings import HealthWarning
from vram_llm.text.names import short_name
from vram_llm.units import MIB, format_bytes

_NARROW = 4  # lanes
_MUCH_BYTES = 256 * MIB  # of other programs; a desktop or the driver's own services take less
_BUSY = 0.9  # of the time; below it a link may save power
_HEAT = ("hardware thermal limit", "software thermal limit")  # names of device_readings.THROTTLE_REASONS
_SUPPLY = ("power brake", "hardware slowdown")


def device_warnings(device: DeviceState) -> tuple[HealthWarning, ...]:
    """The warnings on one device. A power limit that holds its clocks is no fault, and gives none."""
    rules = (_memory_errors, _throttling, _narrow_slot, _weak_link, _other_programs, _display)
    kinds = ("ecc_errors", "throttling", "narrow_slot", "weak_link", "other_programs", "display")
    return tuple(
        HealthWarning(kind=kind, text=text, device=device.id)
        for kind, rule in zip(kinds, rules, strict=True)
        if (text := rule(device)) is not None
    )


def _named(device: DeviceState) -> str:
    return f"{device.id} ({short_name(device.name)})"


def _memory_errors(device: DeviceState) -> str | None:
    if not device.ecc_errors:
        return None
    errors = "an uncorrected error" if device.ecc_errors == 1 else f"{device.ecc_errors} uncorrected errors"
    return (
        f"{_named(device)} has had {errors} in its memory since the driver was loaded: restart the computer, "
        "which takes the bad cells out of use, and have the card replaced if they come back."
    )


def _throttling(device: DeviceState) -> str | None:
    reasons = device.throttle_reasons or ()
    if heat := [reason for reason in reasons if reason in _HEAT]:
        at = "" if device.temperature_c is None else f" at {device.temperature_c} °C"
        return (
            f"{_named(device)} slows itself down because of heat ({heat[0]}{at}): give it more air, or a "
            f"lower power limit (`sudo nvidia-smi -i {device.index} -pl WATTS`)."
        )
    if supply := [reason for reason in reasons if reason in _SUPPLY]:
        return (
            f"{_named(device)} is slowed down ({supply[0]}): check its power cables, and whether the power "
            "supply is strong enough."
        )
    return None


def _narrow_slot(device: DeviceState) -> str | None:
    """A slot with few lanes; not a card that has no more of its own."""
    link = device.pcie
    if link is None or link.max_width is None or link.max_width > _NARROW:
        return None
    lanes = _card_lanes(device)
    if lanes is not None and lanes <= link.max_width:
        return None
    of = "" if lanes is None else f" and has {lanes} lanes"
    return (
        f"{_named(device)} is in an x{link.max_width} slot{of}, so loading, and prompts with weights on the "
        "host, take longer: move it to an x8 or x16 slot if one is free."
    )


def _weak_link(device: DeviceState) -> str | None:
    """A link that stays below what card and slot can do while the card computes."""
    link = device.pcie
    if link is None or (device.utilization or 0) < _BUSY:
        return None
    if link.width is not None and link.max_width is not None and link.width < link.max_width:
        weak = f"x{link.width}, and could have x{link.max_width}"
    elif (
        link.generation is not None
        and link.max_generation is not None
        and link.generation < link.max_generation
    ):
        weak = f"PCIe {link.generation}, and could have PCIe {link.max_generation}"
    else:
        return None
    return (
        f"{_named(device)} computes with a link of {weak}: reseat the card, try it without a riser cable, or "
        "set the slot's speed in the firmware."
    )


def _other_programs(device: DeviceState) -> str | None:
    """Programs other than the server's engine, as far as the driver tells which one that is."""
    if device.other_bytes is None or device.other_bytes < _MUCH_BYTES:
        return None
    others = _others(device)
    held = f"{format_bytes(device.other_bytes)} of {_named(device)}"
    if not others:
        return (
            f"Programs that the driver does not name hold {held}: look for them outside this container, and "
            "end them or plan with what is free."
        )
    first = others[0]
    name = f"{first.name or 'a program'} (pid {first.pid})"
    if len(others) == 1:
        return f"{name} holds {held}: end it, or plan with what is free."
    return f"{name} and {len(others) - 1} more hold {held}: end them, or plan with what is free."


def _others(device: DeviceState) -> list[ProcessState]:
    """The other programs, those with most memory first; the engine is the one with exactly its bytes."""
    found = [each for each in device.processes or () if each.bytes is None or each.bytes != device.own_bytes]
    return sorted(found, key=lambda each: -(each.bytes or 0))


def _display(device: DeviceState) -> str | None:
    if not device.display_attached:
        return None
    return (
        f"A display is connected to {_named(device)}, and its desktop takes memory and time of the card: "
        "connect it to another card or to the mainboard, or keep more free (`--reserve-mib`)."
    )


def _card_lanes(device: DeviceState) -> int | None:
    """The lanes of the card itself, by the catalog; None: unknown."""
    try:
        return catalog.find_card(device.name, device.total_bytes).pcie_lanes
    except UnknownDevice:
        return None
