"""Notes on the assumed or estimated speeds of a plan, and how to measure them."""

from collections.abc import Sequence

from vram_llm.machine.assumed_speed import device_link, device_speed, has_assumed_speed, host_speed
from vram_llm.machine.card_figures import backend_of_speed
from vram_llm.machine.types import Device, DeviceKind, Machine, Source
from vram_llm.planner.placed_parts import on_host
from vram_llm.planner.types import HOST, Placement

_GUESSES = (Source.ESTIMATED, Source.ASSUMED)


def speed_notes(machine: Machine, placement: Placement) -> tuple[str, ...]:
    """Lines for described cards of two back ends, for workers and cards of assumed speed, for the host."""
    used = [device for device in machine.devices if device.id in placement.device_order]
    assumed = [device for device in used if has_assumed_speed(device)]
    workers = [device for device in assumed if device.kind is DeviceKind.RPC]
    cards = [device for device in assumed if device.kind is not DeviceKind.RPC]
    prompts = [device for device in used if device not in assumed and _has_assumed_arithmetic(device)]
    either = [device for device in used if backend_of_speed(device) is not device.kind]
    return (
        *_either_note(either),
        *(f"{_speed_of(group)}; {how_to_measure(group)}" for group in (workers, cards) if group),
        *(
            (f"the prompt speed of {_names(prompts)} is assumed; {how_to_measure(prompts)}",)
            if prompts
            else ()
        ),
        *_host_note(machine, placement),
    )


def assumption(device: Device) -> str:
    """The assumed figures of a device: "20 GB/s over 1 Gbit/s". A link that is measured is not among them."""
    read = f"{device_speed(device).read_bytes_per_s.value / 1e9:,.0f} GB/s"
    link = device_link(device)
    if link is not None and link.latency_s.source is Source.MEASURED:
        return read
    if device.kind is DeviceKind.RPC and link is not None:
        return f"{read} over {8 * link.bytes_per_s.value / 1e9:,.0f} Gbit/s"
    return read


def how_to_measure(devices: Sequence[Device]) -> str:
    """The option or command that makes the speed of `devices` known; they are all of one kind."""
    if all(device.what_if for device in devices):
        return 'name the card or its bandwidth in --gpu, as in "24GiB@1008GB/s"'
    named = (_option(device) for device in devices if device.endpoint is not None)
    options = "".join(dict.fromkeys(named))
    return f"`vram-llm calibrate{options}` measures it"


def _either_note(devices: Sequence[Device]) -> tuple[str, ...]:
    """A line for described cards that ROCm or Vulkan may drive."""
    if not devices:
        return ()
    return (
        f"the speed of {_names(devices)} is Vulkan's, as no back end is named; for ROCm's, write "
        f'"{devices[0].name}@ROCm"',
    )


def _option(device: Device) -> str:
    return f" --ssh {device.tunnel}" if device.tunnel else f" --rpc {device.endpoint}"


def _speed_of(devices: Sequence[Device]) -> str:
    return f"the speed of {_names(devices)} is assumed ({assumption(devices[0])})"


def _has_assumed_arithmetic(device: Device) -> bool:
    flops = device_speed(device).prompt_flops_per_s
    return flops is not None and flops.source is Source.ASSUMED


def _host_note(machine: Machine, placement: Placement) -> tuple[str, ...]:
    read = host_speed(machine.host).read_bytes_per_s
    is_used = on_host(placement).n_with_weights or placement.output_device == HOST
    if not is_used or read.source not in _GUESSES:
        return ()
    how = "`vram-llm calibrate` measures it"
    if machine.host.what_if:
        how = 'name its memory, as in --ram "64GiB DDR5-6000 2ch"'
        how = "calibrate it there" if read.source is Source.ESTIMATED else how
    return (f"the processor's speed is {read.source} ({read.value / 1e9:,.0f} GB/s); {how}",)


def _names(devices: Sequence[Device]) -> str:
    return ", ".join(f"{device.name} ({device.id})" for device in devices)
