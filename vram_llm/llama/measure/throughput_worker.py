"""The child process that measures plans: `python -m vram_llm.llama.measure.throughput_worker`.

All plans stay loaded and take turns, so that a disturbance harms all alike.
"""

import time
from contextlib import ExitStack, closing

from vram_llm.errors import EngineDied
from vram_llm.llama.child_process import Progress, SendMessage, answer
from vram_llm.llama.devices import Servers
from vram_llm.llama.measure.throughput_wire import BenchTest, RoundTimes, ThroughputRequest
from vram_llm.llama.model import LoadedModel


def run(request: ThroughputRequest, send: SendMessage) -> RoundTimes:
    """Seconds of every round. Raises ModelRefused, BadPlan, WorkerUnreachable, EngineDied."""
    plans, tests = request.plans, request.tests
    times: list[list[list[float]]] = [[[] for _ in tests] for _ in plans]
    n_all, done = len(plans) * (1 + request.rounds * len(tests)), 0

    def one_more() -> None:
        nonlocal done
        done += 1
        send(Progress(done / n_all))

    with ExitStack() as stack:
        models, servers = [], Servers()
        for plan in plans:
            models.append(stack.enter_context(closing(LoadedModel(plan, servers=servers))))
            one_more()
        for _ in range(request.rounds):
            for model, found in zip(models, times, strict=True):
                for test, seconds in zip(tests, found, strict=True):
                    seconds.append(prompt(model, test) if test.prompt else decode(model, test))
                    one_more()
    return RoundTimes(tuple(tuple(tuple(seconds) for seconds in found) for found in times))


def prompt(model: LoadedModel, test: BenchTest) -> float:
    """Seconds of a prompt in an empty context, to its last token's logits."""
    _clear(model, 1)
    _step(model, [0], 0)  # warms up after another model's step
    _clear(model, 1)
    began = time.perf_counter()
    for start in range(0, test.prompt, model.n_batch):
        count = min(model.n_batch, test.prompt - start)
        model.batch.clear()
        tokens = [i * 7919 % model.vocab.n_tokens for i in range(start, start + count)]
        row = model.batch.add(tokens, start, 0, n_outputs=1)
        _run(model, row)
    return time.perf_counter() - began


def decode(model: LoadedModel, test: BenchTest) -> float:
    """Seconds of decoding in a nearly empty context, with every token's logits fetched."""
    _clear(model, test.streams)
    sequences = list(range(test.streams))
    for position in range(_WARM_STEPS):
        _step(model, sequences, position)
    began = time.perf_counter()
    for position in range(_WARM_STEPS, _WARM_STEPS + test.decode):
        _step(model, sequences, position)
    return time.perf_counter() - began


_WARM_STEPS = 2  # the first builds the graph


def _clear(model: LoadedModel, n_sequences: int) -> None:
    for sequence in range(n_sequences):
        model.forget(sequence)


def _step(model: LoadedModel, sequences: list[int], position: int) -> None:
    model.batch.clear()
    row = 0
    for sequence in sequences:
        token = (7919 * position + sequence) % model.vocab.n_tokens
        row = model.batch.add((token,), position, sequence, n_outputs=1)
    _run(model, row)


def _run(model: LoadedModel, row: int) -> None:
    if (status := model.decode()) != 0:
        raise EngineDied(f"llama.cpp could not run a batch of {model.batch.n_rows} tokens (code {status})")
    model.logits(row)  # waits for the device


if __name__ == "__main__":
    answer(ThroughputRequest, run)
