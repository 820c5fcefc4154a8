"""A calibration's question to its child process and the answer, sent by `llama.child_process`."""

import msgspec

from vram_llm.machine.types import Device


class CalibrationQuestion(msgspec.Struct, frozen=True):
    """Measure `device` alone, or the host if that is None. `seconds` is for all repeats together."""

    device: Device | None
    n_threads: int
    seconds: float


class StepTime(msgspec.Struct, frozen=True):
    """The time of a batch: the lower quartile of alternating repeats."""

    n_layers: int
    params: int  # weights that each row is multiplied with
    read_bytes: int  # bytes of these weights
    row_bytes: int  # over the link for each row, in both directions
    rows: int
    seconds: float


class TransferTime(msgspec.Struct, frozen=True):
    """The time to send bytes to a device or to fetch them, until the device's answer."""

    n_bytes: int
    seconds: float


class DeviceTimes(msgspec.Struct, frozen=True, tag=True):
    """All times of a device."""

    decode: tuple[StepTime, ...]
    prompt: StepTime
    transfers: tuple[TransferTime, ...]
