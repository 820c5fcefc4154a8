"""The child process that measures a plan: `python -m vram_llm.llama.measure.measure_plan_worker`.

Prompts are computed in batches of the plan's size, and decode steps fetch the logits of every stream. The
context behind the steps is really computed, `depth` tokens of each stream.
"""

import time
from contextlib import closing

from vram_llm.errors import EngineDied
from vram_llm.llama.child_process import Progress, SendMessage, answer
from vram_llm.llama.measure.measure_plan_wire import PlanMeasurement, PlanMeasurementRequest
from vram_llm.llama.model import LoadedModel

_WARM_STEPS = 2  # the first builds the graph
_BURST_S = 0.04  # much longer than the period of a CPU quota
_LEAST_BURSTS = 4
_SPAN = 64  # tokens of decoding, after which the streams are cut to their depth again
_LOADED, _FILLED = 0.4, 0.6  # shares of a measurement, as they are reported


def run(request: PlanMeasurementRequest, send: SendMessage) -> PlanMeasurement:
    """Load and measure. Raises ModelRefused, BadPlan, WorkerUnreachable, EngineDied."""

    def loading(fraction: float) -> bool:
        send(Progress(_LOADED * fraction))
        return True

    began = time.perf_counter()
    with closing(LoadedModel(request.plan, loading)) as model:
        loaded = time.perf_counter()
        measured = _Measured(model, request, send)
        prompts = measured.prompts()
        measured.fill()
        steps = measured.steps()
        taken_s = time.perf_counter() - loaded
    fill_s = max(taken_s - sum(prompts) - measured.steps_taken_s, 0.0)
    return PlanMeasurement(loaded - began, fill_s, request.prompt_tokens, tuple(prompts), tuple(steps))


class _Measured:
    """One loaded model while it is measured."""

    def __init__(self, model: LoadedModel, request: PlanMeasurementRequest, send: SendMessage) -> None:
        self._model, self._request, self._send = model, request, send
        self._streams = list(range(request.streams))
        self._position = 0  # of the next token of every stream
        self.steps_taken_s = 0.0

    def prompts(self) -> list[float]:
        """Seconds of each prompt, alone in an empty context, to its last token's logits."""
        found = []
        for _ in range(self._request.n_prompts):
            self._model.forget(0)
            self._read(0, 1)  # warms up
            self._model.forget(0)
            began = time.perf_counter()
            self._read(0, self._request.prompt_tokens)
            found.append(time.perf_counter() - began)
        return found

    def fill(self) -> None:
        """Put `depth` tokens behind every stream."""
        for stream in self._streams:
            self._model.forget(stream)
            self._read(stream, self._request.depth)
        self._position = self._request.depth

    def steps(self) -> list[float]:
        """The mean seconds of a decode step, for each burst of them."""
        for _ in range(_WARM_STEPS):
            self._step()
        found: list[float] = []
        began, n_steps, room = time.perf_counter(), 1, self._room()
        most = min(_SPAN // 2, max(room - self._request.depth, 1))
        while True:
            if self._position + n_steps > room:
                self._cut()
            burst_began = time.perf_counter()
            for _ in range(n_steps):
                self._step()
            took = time.perf_counter() - burst_began
            self.steps_taken_s += took
            found.append(took / n_steps)
            n_steps = min(max(round(_BURST_S / took * n_steps), n_steps), most)
            done = (time.perf_counter() - began) / self._request.seconds
            self._send(Progress(min(_FILLED + (1 - _FILLED) * done, 1.0)))
            if done >= 1 and len(found) >= _LEAST_BURSTS:
                break
        return found[1:]  # the first says how many steps a burst has

    def _room(self) -> int:
        """The position that no stream reaches: of the context's end, or some steps behind the depth."""
        model = self._model
        cells = model.n_ctx // len(self._streams) if model.plan.context.kv_unified else model.n_ctx_seq
        return min(cells, self._request.depth + _SPAN)

    def _cut(self) -> None:
        """Cut the streams to their depth; where that is not possible, compute them anew."""
        if not all(self._model.cells.cut(stream, self._request.depth) for stream in self._streams):
            self.fill()
        self._position = self._request.depth

    def _read(self, stream: int, n_tokens: int) -> None:
        model, row = self._model, 0
        for start in range(0, n_tokens, model.n_batch):
            count = min(model.n_batch, n_tokens - start)
            model.batch.clear()
            tokens = [i * 7919 % model.vocab.n_tokens for i in range(start, start + count)]
            row = model.batch.add(tokens, start, stream, n_outputs=1)
            self._run()
            model.logits(row)  # waits for the device
            self._send(Progress(_LOADED))

    def _step(self) -> None:
        model = self._model
        model.batch.clear()
        rows = [
            model.batch.add(
                ((7919 * self._position + stream) % model.vocab.n_tokens,),
                self._position,
                stream,
                n_outputs=1,
            )
            for stream in self._streams
        ]
        self._run()
        model.logits(rows[-1])
        self._position += 1

    def _run(self) -> None:
        if (status := self._model.decode()) != 0:
            n_rows = self._model.batch.n_rows
            raise EngineDied(f"llama.cpp could not run a batch of {n_rows} tokens (code {status})")


if __name__ == "__main__":
    answer(PlanMeasurementRequest, run)
