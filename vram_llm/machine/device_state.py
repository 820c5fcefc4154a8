"""A device at one moment, as a server's /status or this computer's driver describes it."""

from dataclasses import asdict, dataclass

from vram_llm.machine.device_readings import DeviceReading


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """The PCIe link of a card now and at most. An idle card lowers its generation."""

    generation: int | None = None
    width: int | None = None
    max_generation: int | None = None  # of card and slot together
    max_width: int | None = None
    rx_bytes_per_s: int | None = None  # to the card
    tx_bytes_per_s: int | None = None

    def __str__(self) -> str:
        """ "PCIe 1@16x of 4@16x": generation and lanes now, and at most if that is more."""
        now = f"PCIe {self.generation or '?'}@{self.width or '?'}x"
        most = (self.max_generation, self.max_width)
        if None in most or most == (self.generation, self.width):
            return now
        return f"{now} of {self.max_generation}@{self.max_width}x"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """A program with memory on a card."""

    pid: int
    name: str | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """A device; what is unknown is None. Shares are 0 to 1. The names are those of /status."""

    index: int
    name: str
    id: str = ""  # "GPU0"
    backend: str | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    own_bytes: int | None = None  # of the server's engine
    other_bytes: int | None = None  # of other programs
    layers: tuple[int, int] | None = None  # the first and the last of the served model
    utilization: float | None = None
    memory_utilization: float | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    clock_mhz: int | None = None
    max_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    pcie: LinkState | None = None
    fan: float | None = None
    ecc_errors: int | None = None
    display_attached: bool | None = None
    processes: tuple[ProcessState, ...] | None = None

    @property
    def used_bytes(self) -> int | None:
        """Memory in use by all programs."""
        if self.total_bytes is None or self.free_bytes is None:
            return None
        return self.total_bytes - self.free_bytes


_READ = DeviceState.__dataclass_fields__.keys() & DeviceReading.__dataclass_fields__.keys() - {
    "pcie",
    "processes",
}


def state_of(reading: DeviceReading) -> DeviceState:
    """The state of a card of this computer that no server of ours is known to use."""
    processes = reading.processes
    return DeviceState(
        id=f"GPU{reading.index}",
        backend="cuda",
        other_bytes=reading.used_bytes,
        pcie=None if reading.pcie is None else LinkState(**asdict(reading.pcie)),
        processes=None
        if processes is None
        else tuple(ProcessState(pid=each.pid, name=each.name, bytes=each.used_bytes) for each in processes),
        **{name: getattr(reading, name) for name in _READ},
    )
