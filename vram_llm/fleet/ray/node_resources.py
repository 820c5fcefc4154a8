"""The memory of a node, and the memory that a model needs there, as Ray's custom resources.

Ray places a replica on a node with enough of each. The sums are a sieve: the replica's own plan, on its node,
is the proof. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from vram_llm.machine.types import Machine
from vram_llm.planner.companions import companion_only_devices
from vram_llm.planner.types import Plan
from vram_llm.units import MIB

DEVICE_MIB = "vram_llm_device_mib"  # free memory of all devices that is not the host's
HOST_MIB = "vram_llm_host_mib"  # every node of vram-llm has it
CARD = "vram_llm_card:"  # with the name of a card: their number


def node_resources(machine: Machine) -> dict[str, float]:
    """The resources of a node, by its devices as they are now."""
    own = [device for device in machine.devices if device.endpoint is None]
    cards = Counter(CARD + device.name.replace(" ", "_") for device in own)
    resources = {HOST_MIB: machine.host.available_bytes // MIB, **cards}
    if dedicated := sum(device.free_bytes for device in own if not device.shares_host_memory):
        resources[DEVICE_MIB] = dedicated // MIB
    return {name: float(amount) for name, amount in resources.items()}


def needed_resources(plan: Plan) -> dict[str, float]:
    """The resources that a replica with this plan takes."""
    estimate = plan.estimate
    shared = sum(use.shared_bytes for use in estimate.devices)
    held = (*estimate.devices, *companion_only_devices(plan))
    dedicated = sum(use.total_bytes for use in held) - shared
    needed = {HOST_MIB: estimate.host.total_bytes - estimate.host.disk_bytes + shared, DEVICE_MIB: dedicated}
    return {name: float(-(-n_bytes // MIB)) for name, n_bytes in needed.items() if n_bytes > 0}


def most_of(needs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The most of each resource: enough on every node, whose cards need not be alike."""
    most: dict[str, float] = {}
    for each in needs:
        for name, amount in each.items():
            most[name] = max(most.get(name, 0.0), amount)
    return most
