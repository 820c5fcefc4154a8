"""The child process of a calibration: `python -m vram_llm.llama.measure.calibrate_worker`.

A request on standard input, answers on standard output. Models of several widths and depths stay loaded
and take turns, so that a disturbance harms all alike. Whatever else runs only adds time, so of the repeats
the lower quartile counts.
"""

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from vram_llm.errors import ModelRefused
from vram_llm.llama.child_process import Progress, SendMessage, answer
from vram_llm.llama.measure.calibrate_wire import CalibrationRequest, DeviceTimes, StepTime, TransferTime
from vram_llm.llama.measure.sample_model import MAX_ROWS, N_UBATCH, SampleModel
from vram_llm.llama.random_model import RandomModelShape
from vram_llm.machine.types import DeviceKind
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST
from vram_llm.units import format_bytes

_NARROW = [
    RandomModelShape(n_embd=256, n_ff=512, n_layers=n, n_head=4, n_head_kv=2, n_vocab=256) for n in (2, 16)
]
_MIDDLE = RandomModelShape(n_embd=1024, n_ff=2816, n_layers=4, n_head=8, n_head_kv=2, n_vocab=1024)
_WIDE = RandomModelShape(n_embd=2048, n_ff=5632, n_layers=2, n_head=16, n_head_kv=4, n_vocab=256)
_LONG, _DEEP = (
    RandomModelShape(n_embd=2048, n_ff=5632, n_layers=n, n_head=16, n_head_kv=4, n_vocab=256) for n in (6, 16)
)
_LARGE, _LARGEST = (  # layers of an 8B model
    RandomModelShape(n_embd=4096, n_ff=14336, n_layers=n, n_head=32, n_head_kv=8, n_vocab=256) for n in (2, 6)
)
_QUICK_S = 2e-3  # a step of the wide model: smaller matrices use such a device less than real ones do
_UPLOAD_S = 4.0  # the last model is left out if sending it takes longer
_LEAST_ROUNDS = 3
_PROMPT_S = 0.25


class TimedCase(NamedTuple):
    """A model, and the number of rows of its batches."""

    model: SampleModel
    rows: int


def measure(request: CalibrationRequest, send: SendMessage) -> DeviceTimes:
    """Measure a device. Raises ModelRefused, and the errors of finding the device."""
    from vram_llm.llama.devices import handles
    from vram_llm.llama.measure.transfer import transfers

    device = request.device
    if device is None:
        return _measure_host(request, send)
    found = handles([device], [device.id])
    sent = transfers(found[0], is_card=device.kind is not DeviceKind.RPC)
    return _measure_models(request, found, sent, lambda share: send(Progress(share)))


def _measure_host(request: CalibrationRequest, send: SendMessage) -> DeviceTimes:
    """Operations first, since they say how many threads are best."""
    from vram_llm.llama.measure.host_times import host_times

    operations = host_times(
        request.n_threads, request.free_bytes, request.seconds, lambda share: send(Progress(share / 2))
    )
    threads = max(request.n_threads) if operations is None else operations.n_threads
    request = msgspec.structs.replace(request, n_threads=(threads,))
    times = _measure_models(request, [], (), lambda share: send(Progress(0.5 + share / 2)))
    return msgspec.structs.replace(times, host=operations)


def _measure_models(
    request: CalibrationRequest,
    handles: list[int],
    sent: tuple[TransferTime, ...],
    on_progress: Callable[[float], None],
) -> DeviceTimes:
    device = request.device
    room = device.free_bytes if device else None
    on_progress(0.1)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vram-llm-")))
        if not _fits(_WIDE, room):
            raise ModelRefused(f"{format_bytes(room or 0)} free are too little to measure with")

        def loaded(shape: RandomModelShape, *, moved: bool = False) -> SampleModel:
            ids = [device.id] if device else []
            placement = placement_from_counts(ids, [shape.n_layers] * len(ids), shape.n_layers)
            if moved:  # its feed-forward weights are on the host
                override = Override.of(LayerPart.FFN, range(shape.n_layers), HOST)
                placement = dataclasses.replace(placement, overrides=(override,))
            model = SampleModel(shape, placement, handles, folder, request.n_threads[0])
            return stack.enter_context(closing(model))

        def can_take(shape: RandomModelShape) -> bool:
            seconds_per_byte = min((t.seconds / t.n_bytes for t in sent), default=0.0)
            return shape.read_bytes * seconds_per_byte < _UPLOAD_S and _fits(shape, room)

        loaded(_WIDE)  # not measured: the first model can lie in slower memory than later ones
        models = []
        for shape in (*_NARROW, _MIDDLE, _WIDE):
            models.append(loaded(shape))
            on_progress(0.1 + 0.05 * len(models))
        more: tuple[RandomModelShape, ...] = (_LONG,)  # steps as long as a real model's
        if models[-1].burst(1) < _QUICK_S:
            more = (_DEEP,)
            if can_take(_LARGEST):
                more, models = (_LARGE, _LARGEST), models[: len(_NARROW)]
        models += [loaded(shape) for shape in more if can_take(shape)]
        cases = [TimedCase(model, rows) for model in models for rows in _rows(model.shape)]
        if device is not None:
            cases.append(TimedCase(loaded(_NARROW[-1], moved=True), 1))
        widest = next(model for model in models if model.shape in (_WIDE, _LARGE))
        longest = models[-1] if models[-1].shape is _LARGEST else widest
        times = _rounds(cases, TimedCase(longest, _prompt_rows(longest)), request.seconds, on_progress)
    *steps, prompt = [_step(case, seconds) for case, seconds in times]
    moved = None if device is None else steps.pop()
    return DeviceTimes(tuple(steps), prompt, sent, moved)


def _rows(shape: RandomModelShape) -> tuple[int, ...]:
    """The rows of the steps that a model is measured with."""
    return (1, 4) if shape is _MIDDLE else (1, MAX_ROWS) if shape in (_WIDE, _DEEP, _LARGE) else (1,)


def _fits(shape: RandomModelShape, room_bytes: int | None) -> bool:
    """Whether the shape, all smaller ones and their compute buffers fit."""
    return room_bytes is None or 4 * shape.read_bytes < room_bytes


def _prompt_rows(model: SampleModel) -> int:
    """Tokens of a prompt that takes about `_PROMPT_S`: a power of two, up to a micro-batch."""
    per_row_s = max((model.burst(MAX_ROWS) - model.burst(1)) / (MAX_ROWS - 1), 1e-9)
    n = 32
    while n < N_UBATCH and 2 * n * per_row_s < _PROMPT_S:
        n *= 2
    return n


def _rounds(
    cases: list[TimedCase], prompt: TimedCase, seconds: float, on_progress: Callable[[float], None]
) -> Iterator[tuple[TimedCase, list[float]]]:
    """Run the cases in turns for `seconds`; each case with its times, and last the prompt."""
    times: list[list[float]] = [[] for _ in range(len(cases) + 1)]
    began = time.perf_counter()
    for n in itertools.count():
        for case, found in zip(cases, times, strict=False):
            found.append(case.model.burst(case.rows))
        times[-1].append(prompt.model.prompt(prompt.rows))
        took = time.perf_counter() - began
        on_progress(0.3 + 0.7 * min(took / seconds, 1.0))
        if n + 1 >= _LEAST_ROUNDS and took * (n + 2) / (n + 1) > seconds:
            break
    return zip([*cases, prompt], times, strict=True)


def _step(case: TimedCase, times: list[float]) -> StepTime:
    shape = case.model.shape
    return StepTime(
        n_layers=shape.n_layers,
        params=shape.params,
        read_bytes=shape.read_bytes,
        row_bytes=4 * (shape.n_embd + shape.n_vocab),
        rows=case.rows,
        seconds=statistics.quantiles(times, n=4, method="inclusive")[0],
    )


if __name__ == "__main__":
    answer(CalibrationRequest, measure)
