"""The memory of a fleet's machine as it is now, that of its RPC workers included."""

import dataclasses
import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from vram_llm.errors import VramLLMError
from vram_llm.planner.types import HOST

if TYPE_CHECKING:
    from vram_llm.machine.types import Device, Machine

log = logging.getLogger("vram_llm.fleet")
_TIMEOUT_S = 10.0  # for a worker's answer, of which a busy computer needs some to start Python


class MachineNow:
    """Reads the machine on which a fleet runs. `devices` are those of its plan.

    `local` detects it without workers; None: it cannot be detected again.
    """

    def __init__(self, devices: "Collection[Device]", local: "Callable[[], Machine] | None") -> None:
        from vram_llm.machine.device_readings import DeviceReader

        self._devices = tuple(devices)
        self._local = local
        self._reader = DeviceReader()

    def free_bytes(self, ids: Collection[str]) -> dict[str, int]:
        """Free bytes of the devices of these ids and of "host", as drivers and workers know them.

        A worker serves one program at a time: ask for those that no model of the fleet uses.
        """
        from vram_llm.machine.host import read_host_memory
        from vram_llm.server.metrics.system_readings import SystemReading

        reading = SystemReading(self._reader.read(), read_host_memory(None))
        cards = {device.id: reading.card(device) for device in self._devices if device.id in ids}
        free = {i: card.free_bytes for i, card in cards.items() if card is not None}
        known = {i: n_bytes for i, n_bytes in free.items() if n_bytes is not None}
        workers = [each for each in self._devices if each.endpoint is not None and each.id in ids]
        return known | _free_of_workers(workers) | {HOST: reading.host.available_bytes}

    def machine(self, busy: frozenset[str]) -> "Machine":
        """The machine with its workers. Those at the endpoints `busy` are not asked, and are as planned."""
        if self._local is None:
            raise LookupError("this machine cannot be detected again")
        machine = self._local()
        workers = [device for device in self._devices if device.endpoint is not None]
        free = _free_of_workers([device for device in workers if device.endpoint not in busy])
        now = (dataclasses.replace(each, free_bytes=free.get(each.id, each.free_bytes)) for each in workers)
        return dataclasses.replace(machine, devices=(*machine.devices, *now))


def _free_of_workers(devices: "Collection[Device]") -> dict[str, int]:
    """Free bytes by device id, no more than the user allows. A worker that does not answer is left out."""
    from vram_llm.llama.rpc import worker_facts
    from vram_llm.machine.types import Source

    free: dict[str, int] = {}
    for endpoint in dict.fromkeys(device.endpoint for device in devices):
        assert endpoint is not None
        try:
            facts = worker_facts(endpoint, measures_link=False, timeout_s=_TIMEOUT_S)
        except VramLLMError as error:
            log.warning("the free memory of a worker is not known: %s", error)
            continue
        for device in devices:
            if device.endpoint == endpoint and device.endpoint_index < len(facts.devices):
                n_bytes = facts.devices[device.endpoint_index].free_bytes
                is_limited = device.memory_source is Source.GIVEN
                free[device.id] = min(n_bytes, device.free_bytes) if is_limited else n_bytes
    return free
