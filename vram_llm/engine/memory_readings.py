"""The readings of a MemoryGuard: free memory of the host and of the devices, and the plan's reserves."""

import threading
import time
from collections.abc import Callable, Mapping

from vram_llm.engine.memory_guard import EVERY_S
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.host import available_bytes
from vram_llm.planner.types import HOST, Plan


class LatestReadings:
    """The last answer of `read`, which takes milliseconds: a thread calls it again and again."""

    def __init__(self, read: Callable[[], Mapping[str, int]]) -> None:
        self._read = read
        self._latest = read()
        threading.Thread(target=self._run, name="free memory", daemon=True).start()

    def __call__(self) -> Mapping[str, int]:
        return self._latest

    def _run(self) -> None:
        while True:
            time.sleep(EVERY_S)  # between two readings
            self._latest = self._read()


def free_memory(model: LoadedModel) -> dict[str, int]:
    """Free bytes of the local devices that have memory of their own, by id, and of the host."""
    return {**model.free_bytes(), HOST: available_bytes()}


def reserves(plan: Plan) -> dict[str, int]:
    """The bytes that the plan keeps free, by device id and HOST."""
    devices = {device.id: device.reserve_bytes for device in plan.devices}
    on_host = plan.host_reserve_bytes
    return devices if on_host is None else {**devices, HOST: on_host}
