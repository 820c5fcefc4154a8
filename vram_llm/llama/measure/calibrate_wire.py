"""A calibration's request to its child process and the answer, sent by `llama.child_process`."""

from collections.abc import Sequence

import msgspec

from vram_llm.machine.types import Device, Fact, Link, Source

MORE_ROWS, PROMPT_ROWS = 8, 128  # of single operations on the host


class CalibrationRequest(msgspec.Struct, frozen=True):
    """Measure `device` alone, or the host if that is None. `seconds` is for all repeats together."""

    device: Device | None
    n_threads: tuple[int, ...]  # on the host; of several, the best is chosen first
    free_bytes: int  # on the host
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
    sent_s: float  # to send them


class OperationTime(msgspec.Struct, frozen=True):
    """The time of an operation on the host: the lower quartile of alternating repeats."""

    type: str  # of the weights: ggml's name
    rows: int  # that are multiplied with them
    n_bytes: int  # of weights
    products: int
    seconds: float


class HostTimes(msgspec.Struct, frozen=True):
    """Times of matrices of each type: for one row, for some and for many. The others are for one row."""

    n_threads: int
    matrices: tuple[OperationTime, ...]
    experts: OperationTime
    attention: OperationTime  # its products; the cache is f16


class DeviceTimes(msgspec.Struct, frozen=True, tag=True):
    """All times of a device."""

    decode: tuple[StepTime, ...]
    prompt: StepTime
    transfers: tuple[TransferTime, ...]
    moved: StepTime | None = None  # a model of `decode` with all feed-forward weights on the host
    host: HostTimes | None = None  # if the host is measured


def fitted_link(transfers: Sequence[TransferTime]) -> Link | None:
    """Latency: half the round trip of a few bytes. Bandwidth: from the largest transfer's time beyond it."""
    if not transfers:
        return None
    least, most = min(transfers, key=_size), max(transfers, key=_size)
    n_bytes = most.n_bytes - least.n_bytes
    return Link(
        latency_s=_measured(least.seconds / 2),
        bytes_per_s=_measured(n_bytes / max(most.seconds - least.seconds, most.seconds / 100)),
        send_bytes_per_s=_measured(n_bytes / max(most.sent_s - least.sent_s, most.sent_s / 100)),
    )


def _size(transfer: TransferTime) -> int:
    return transfer.n_bytes


def _measured(value: float) -> Fact:
    return Fact(value, Source.MEASURED)
