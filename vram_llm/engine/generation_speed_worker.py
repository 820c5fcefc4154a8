"""The child process that measures generation: `python -m vram_llm.engine.generation_speed_worker`.

It runs the engine's own loop, with its drafts, sampling and prefix cache, without a server. Before anything
is timed an answer is written, in which the engine learns what rows cost and how many drafts are accepted.
"""

import time
from contextlib import closing

from vram_llm.engine.generation_prompts import GenerationPrompts
from vram_llm.engine.generation_speed import GenerationMeasurement, GenerationRequest
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import FinishReason, Request, SamplingParams, TokenEvent
from vram_llm.errors import EngineDied
from vram_llm.llama.child_process import Progress, SendMessage, answer
from vram_llm.llama.load_draft_model import load_draft
from vram_llm.llama.model import LoadedModel

_WARM_TOKENS = 24
_TEMPERATURE = 0.7  # the most likely tokens alone often end in a loop, which is easy to predict
_OF_PROMPTS = 1000  # the place of prompts that are timed, far from those of streams
_LOADED = 0.4  # share of a measurement, as it is reported
_REPORT_S = 0.2


def run(request: GenerationRequest, send: SendMessage) -> GenerationMeasurement:
    """Load and measure. Raises ModelRefused, BadPlan, WorkerUnreachable, EngineDied."""

    def loading(fraction: float) -> bool:
        send(Progress(_LOADED * fraction))
        return True

    began, servers = time.perf_counter(), dict[str, list[int]]()
    with closing(LoadedModel(request.plan, loading, servers)) as model:
        draft = load_draft(model, servers)
        try:
            load_s = time.perf_counter() - began
            writing = _Writing(Loop(model, draft), GenerationPrompts(model.vocab), request, send)
            prompt_s = writing.prompt_s()
            token_s = writing.token_s()
            stats = writing.loop.stats()
        finally:
            if draft is not None:
                draft.close()
    return GenerationMeasurement(
        load_s,
        request.prompt_tokens,
        prompt_s,
        token_s,
        stats.n_model_drafted_tokens,
        stats.n_model_accepted_tokens,
    )


class _Writing:
    """One engine while it is measured."""

    def __init__(
        self, loop: Loop, prompts: GenerationPrompts, request: GenerationRequest, send: SendMessage
    ) -> None:
        self.loop, self._prompts, self._request, self._send = loop, prompts, request, send
        self._sent_at = 0.0
        self._n_asked = 0

    def prompt_s(self) -> float:
        """Seconds of a prompt, alone, to its first token."""
        self._ask(self._prompts.prompt(_OF_PROMPTS + 1, min(self._request.prompt_tokens, 2)), 1)
        self._run_to_end()
        self._ask(self._prompts.prompt(_OF_PROMPTS, self._request.prompt_tokens), 1)
        began = time.perf_counter()
        self._run_to_end()
        return time.perf_counter() - began

    def token_s(self) -> float:
        """Seconds until each stream has a token more, over all answers."""
        request = self._request
        self._answers(request.first_text - 1, min(_WARM_TOKENS, request.n_tokens))
        seconds, n_written = 0.0, 0
        for number in range(request.n_texts):
            took, n = self._answers(request.first_text + number, request.n_tokens)
            seconds, n_written = seconds + took, n_written + n
        if not n_written:
            raise EngineDied("the model wrote nothing while all streams were to write")
        return seconds * request.streams / n_written

    def _answers(self, number: int, n_tokens: int) -> tuple[float, int]:
        """An answer of each stream: seconds while all of them write, and the tokens written meanwhile."""
        request = self._request
        asked = [
            self._ask(self._prompts.prompt(stream, request.depth, number + stream), n_tokens + 1)
            for stream in range(request.streams)
        ]
        waiting = set(asked)
        while waiting:
            waiting -= {event.id for event in self._step() if event.token_ids}
        began, before = time.perf_counter(), self.loop.stats().n_generated_tokens
        while not self.loop.is_idle:
            if any(event.finish_reason is not None for event in self._step()):
                break
        took = time.perf_counter() - began
        n_written = self.loop.stats().n_generated_tokens - before
        for each in asked:
            self.loop.cancel(each)
        self._run_to_end()
        return took, n_written

    def _ask(self, prompt: tuple[int, ...], n_tokens: int) -> str:
        self._n_asked += 1
        request = Request(
            id=str(self._n_asked),
            prompt=prompt,
            max_tokens=n_tokens,
            ignore_eos=True,
            sampling=SamplingParams(temperature=_TEMPERATURE, seed=self._n_asked),
        )
        if (refusal := self.loop.submit(request)) is not None:
            raise EngineDied(f"the model is loaded but does not run: {refusal.error}")
        return request.id

    def _run_to_end(self) -> None:
        while not self.loop.is_idle:
            self._step()

    def _step(self) -> list[TokenEvent]:
        """A step's events. Raises EngineDied if one is an error."""
        _, events = self.loop.step()
        if failed := [event for event in events if event.finish_reason is FinishReason.ERROR]:
            raise EngineDied(f"the model is loaded but does not run: {failed[0].error}")
        if (now := time.perf_counter()) - self._sent_at > _REPORT_S:
            self._sent_at = now
            self._send(Progress(_LOADED))
        return events


if __name__ == "__main__":
    answer(GenerationRequest, run)
