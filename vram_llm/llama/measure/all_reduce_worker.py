"""The child process that measures sums between devices: `python -m vram_llm.llama.measure.all_reduce_worker`.

A thin random model is loaded by tensors over all devices, in equal shares, and another one on each device
alone, whose layers are as wide as such a share. The latter does the work of one share without the sums:

    sum    (step by tensors - the longest step of a share) / sums of a step

A step has two sums a layer, and a prompt's last one has a single row. Bursts of all models take turns; the
lower quartiles count, since other programs only add time.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from vram_llm.llama.child_process import Progress, SendMessage, answer
from vram_llm.llama.measure.all_reduce_wire import SumsRequest, SumTime, SumTimes
from vram_llm.llama.measure.sample_model import SampleModel
from vram_llm.llama.random_model import RandomModelShape
from vram_llm.machine.types import Device, DeviceKind
from vram_llm.planner.llama_split import placement_from_counts, tensor_placement

_N_EMBD = 2048
_SHARE = 128  # elements of a device's heads and of its feed-forward network: llama.cpp's granularity
_SUMS_OF_LAYER = 2
_N_LAYERS, _N_LAYERS_OF_WORKERS = 32, 4  # a worker's sum takes a millisecond, a card's some microseconds
_ROWS, _ROWS_OF_WORKERS, _LEAST_ROWS = 512, 64, 8
_MOST_S = 0.1  # of one sum of many rows over a slow link
_F32 = 4
_LEAST_ROUNDS = 3


def measure(request: SumsRequest, send: SendMessage) -> SumTimes:
    """Measure the sums. Raises ModelRefused, and the errors of finding the devices."""
    devices = request.devices
    has_workers = any(device.kind is DeviceKind.RPC for device in devices)
    n_layers = _N_LAYERS_OF_WORKERS if has_workers else _N_LAYERS
    n_rows = n_rows_of(devices)
    with _loaded(request, n_layers) as (by_tensors, shares):
        cases = [lambda model=model: model.burst(1) for model in (by_tensors, *shares)]
        cases += [lambda model=model: model.prompt(n_rows) for model in (by_tensors, *shares)]
        times = list(_rounds(cases, request.seconds, lambda share: send(Progress(share))))
    step, *steps = times[: len(times) // 2]
    prompt, *prompts = times[len(times) // 2 :]
    n_sums = _SUMS_OF_LAYER * n_layers
    few_s = max(step - max(steps), 0.0) / n_sums
    many_s = max(prompt - max(prompts) - few_s, 0.0) / (n_sums - 1)
    row_bytes = _N_EMBD * _F32
    return SumTimes(few=SumTime(row_bytes, few_s), many=SumTime(n_rows * row_bytes, many_s))


def n_rows_of(devices: Sequence[Device]) -> int:
    """Rows of the larger sum: those of a prompt's micro-batch, or fewer over slow links."""
    if all(device.kind is not DeviceKind.RPC for device in devices):
        return _ROWS
    rates = [device.link.bytes_per_s.value for device in devices if device.link is not None]
    row_s = 2 * len(devices) * _N_EMBD * _F32 / min(rates, default=1e9)
    return max(_LEAST_ROWS, min(_ROWS_OF_WORKERS, int(_MOST_S / row_s)))


@contextmanager
def _loaded(request: SumsRequest, n_layers: int) -> Iterator[tuple[SampleModel, list[SampleModel]]]:
    """A model by tensors, and on each device alone a model that is as wide as its share."""
    from vram_llm.llama.devices import handles

    ids = [device.id for device in request.devices]
    found = handles(request.devices, ids)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vram-llm-")))

        def load(n_shares: int, at: Sequence[int]) -> SampleModel:
            shape = RandomModelShape(
                n_embd=_N_EMBD, n_ff=n_shares * _SHARE, n_layers=n_layers, n_head=n_shares,
                n_head_kv=n_shares, n_vocab=256, head_size=_SHARE,
            )  # fmt: skip
            names = [ids[i] for i in at]
            placement = placement_from_counts(names, [n_layers], n_layers)
            if n_shares > 1:
                placement = tensor_placement(names, (1,) * n_shares, n_layers)
            model = SampleModel(shape, placement, [found[i] for i in at], folder, request.n_threads)
            return stack.enter_context(closing(model))

        by_tensors = load(len(ids), range(len(ids)))
        yield by_tensors, [load(1, [i]) for i in range(len(ids))]


def _rounds(
    cases: Sequence[Callable[[], float]], seconds: float, on_progress: Callable[[float], None]
) -> Iterator[float]:
    """Run the cases in turns for `seconds`; the lower quartile of each."""
    times: list[list[float]] = [[] for _ in cases]
    began = time.perf_counter()
    for n in itertools.count(1):
        for case, found in zip(cases, times, strict=True):
            found.append(case())
        took = time.perf_counter() - began
        on_progress(min(took / seconds, 1.0))
        if n >= _LEAST_ROUNDS and took * (n + 1) / n > seconds:
            break
    return (statistics.quantiles(found, n=4, method="inclusive")[0] for found in times)


if __name__ == "__main__":
    answer(SumsRequest, measure)
