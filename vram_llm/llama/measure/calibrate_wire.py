"""What a calibration asks its child process, and what comes back, as `llama.child_process` carries it."""

import msgspec

from vram_llm.machine.types import Device


class CalibrationQuestion(msgspec.Struct, frozen=True):
    """Measure `device` alone, or the host where that is None. `seconds` is for all repeats together."""

    device: Device | None
    n_threads: int
    seconds: float


class Step(msgspec.Struct, frozen=True):
    """How long a batch took: the lower quartile of alternating repeats."""

    n_layers: int
    params: int  # weights that each row is multiplied with
    read_bytes: int  # bytes of them
    row_bytes: int  # that cross the link for each row, there and back
    rows: int
    seconds: float


class Transfer(msgspec.Struct, frozen=True):
    """How long it took to send bytes to a device or to fetch them, the answer awaited."""

    n_bytes: int
    seconds: float


class Times(msgspec.Struct, frozen=True, tag=True):
    """All that was measured of a device."""

    decode: tuple[Step, ...]
    prompt: Step
    transfers: tuple[Transfer, ...]
