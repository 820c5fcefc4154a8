"""Measures the sums that devices of a tensor split make together: a child process runs llama.cpp."""

from collections.abc import Callable, Sequence

from vram_llm.llama.child_process import ask
from vram_llm.llama.measure.all_reduce_wire import SumsRequest, SumTimes
from vram_llm.machine.types import Device, Host

SECONDS = 4.0  # of repeats for each group of devices, without loading
_SILENCE_S = 120.0  # of several slow links


def sum_times(
    devices: Sequence[Device], host: Host, on_progress: Callable[[float], None], seconds: float | None = None
) -> SumTimes:
    """Times of sums over `devices`, from repeats for `seconds` (SECONDS).

    `on_progress` receives the share done.

    Raises EngineDied if llama.cpp ends or hangs, as it does where a back end cannot split by tensors, and
    the child's errors: ModelRefused, BadPlan, WorkerUnreachable, NotBuilt.
    """
    names = " and ".join(device.name for device in devices)
    return ask(
        "vram_llm.llama.measure.all_reduce_worker",
        SumsRequest(tuple(devices), host.best_threads, seconds or SECONDS),
        SumTimes,
        f"sums between {names} were measured",
        _SILENCE_S,
        on_progress,
    )
