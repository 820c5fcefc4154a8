"""Things to watch: three fake cards, a source that a test feeds, and `watch` with the cards as a program."""

import sys
from typing import Any

from tests.machine.fake_nvml import FakeCard, fake_nvml
from vram_llm.cli.watching.snapshot import (
    Snapshot,
    WatchedEngine,
    WatchedHost,
    WatchedLoad,
    WatchedModel,
    of_machine,
)
from vram_llm.errors import VramLLMError
from vram_llm.machine.device_readings import DeviceReader
from vram_llm.machine.host import HostReading
from vram_llm.units import GIB

HOST = HostReading(total_bytes=64 * GIB, available_bytes=40 * GIB, swap_used_bytes=0, process_bytes=None)
NO_PID = 2**22 + 7  # above the largest one of Linux


def three_cards() -> Any:
    """A fake pynvml: a card that is well, one in an x4 slot, and one with heat, errors and a display."""
    return fake_nvml(
        FakeCard(name="NVIDIA GeForce RTX 3090", free_mib=3000, link=(4, 16)),
        FakeCard(
            uuid="GPU-1",
            name="NVIDIA GeForce RTX 3060",
            total_mib=12288,
            free_mib=2000,
            slot=(3, 4),
            link=(3, 4),
            processes={NO_PID: 9000, NO_PID + 1: 700},
        ),
        FakeCard(
            uuid="GPU-2",
            name="NVIDIA GeForce RTX 4080",
            total_mib=16384,
            free_mib=16000,
            link=(4, 16),
            temperature_c=91,
            throttled=0x40,
            ecc_errors=2,
            display=1,
            drawing={NO_PID + 2: 80},
        ),
    )


def of_cards() -> Snapshot:
    """The snapshot of a computer with the three cards."""
    return of_machine(DeviceReader(three_cards).read(), HOST)


def of_rig() -> Snapshot:
    """The snapshot of a server on the three cards."""
    cards = of_cards()
    return Snapshot(
        address="http://rig:8080",
        server_version="0.2.0",
        model=WatchedModel(id="Llama-3.3-70B-Q4_K_M", n_ctx=32768, parallel=4),
        engine=WatchedEngine(state="ready", uptime_s=7500.0),
        load=WatchedLoad(
            n_running=3, n_waiting=2, kv_usage=0.45, prompt_tokens_per_s=812.3, generation_tokens_per_s=41.7
        ),
        devices=cards.devices,
        host=WatchedHost(total_bytes=64 * GIB, available_bytes=40 * GIB),
        warnings=cards.warnings,
    )


class FedSource:
    """Gives what a test sets; an error is raised."""

    def __init__(self, first: Snapshot | VramLLMError) -> None:
        self.next = first
        self.n_reads = 0
        self.is_closed = False

    async def read(self) -> Snapshot:
        """The states that are set."""
        self.n_reads += 1
        if isinstance(self.next, VramLLMError):
            raise self.next
        return self.next

    async def close(self) -> None:
        """Note it."""
        self.is_closed = True


if __name__ == "__main__":
    sys.modules["pynvml"] = three_cards()
    from vram_llm.cli.main import main

    main()
