"""Measures one device alone: a child process runs llama.cpp on it for a few seconds."""

from collections.abc import Callable

from vram_llm.llama.child_process import ask
from vram_llm.llama.measure.calibrate_wire import CalibrationRequest, DeviceTimes
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
    threads = thread_candidates(host)
    if device is not None:
        threads = (host.best_threads,)
    times = ask(
        "vram_llm.llama.measure.calibrate_worker",
        CalibrationRequest(device, threads, host.available_bytes, seconds or SECONDS),
        DeviceTimes,
        f"{name} was measured",
        _SILENCE_S,
        on_progress,
    )
    return fit_speed(times)


def thread_candidates(host: Host) -> tuple[int, ...]:
    """Numbers of threads worth trying, ascending: the physical cores, one fewer, a node's, all threads."""
    physical = host.physical_cores or host.cores
    per_node = physical // (host.numa_nodes or 1)
    return tuple(sorted({count for count in (per_node, physical - 1, physical, host.cores) if count > 0}))
