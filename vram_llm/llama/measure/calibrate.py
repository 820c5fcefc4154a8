"""Measures one device alone: a child process runs llama.cpp on it for a few seconds."""

from collections.abc import Callable

from vram_llm.llama.child_process import ask
from vram_llm.llama.measure.calibrate_wire import CalibrationQuestion, DeviceTimes
from vram_llm.llama.measure.fit import FittedSpeed, fit_speed
from vram_llm.machine.types import Device, Host

SECONDS = 8.0  # of repeats on each device, without loading
_SILENCE_S = 90.0  # of a slow link, or of a worker that is busy with another program


def calibrate(
    device: Device | None, host: Host, on_progress: Callable[[float], None], seconds: float | None = None
) -> FittedSpeed:
    """The figures of `device`, or of the host if that is None, from repeats for `seconds` (SECONDS).

    `on_progress` receives the share done.

    Raises EngineDied if llama.cpp ends or hangs, and the child's errors: ModelRefused, BadPlan,
    WorkerUnreachable, NotBuilt.
    """
    name = "the host" if device is None else device.name
    times = ask(
        "vram_llm.llama.measure.calibrate_worker",
        CalibrationQuestion(device, host.cores, seconds or SECONDS),
        DeviceTimes,
        f"{name} was measured",
        _SILENCE_S,
        on_progress,
    )
    return fit_speed(times)
