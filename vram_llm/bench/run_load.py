"""The load itself: requests sent when they are due, no more than the bound at a time."""

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from vram_llm.bench.answer_stream import AnswerStream, error_text
from vram_llm.bench.arrivals import LoadShape, arrival_times
from vram_llm.bench.endpoint import Endpoint, LoadPrompt
from vram_llm.bench.outcome import RequestOutcome
from vram_llm.bench.stream_client import StreamClient
from vram_llm.errors import ServerUnreachable

_MOST_OPENED = 512  # connections that are opened beforehand


@dataclass(frozen=True, slots=True)
class LoadRun:
    """The requests that ended, in the order of their arrival, and the time of all.

    `was_interrupted`: the load ended early, and requests under way are left out.
    """

    outcomes: tuple[RequestOutcome, ...]
    duration_s: float
    was_interrupted: bool = False


async def run_load(
    client: StreamClient,
    endpoint: Endpoint,
    prompts: Sequence[LoadPrompt],
    shape: LoadShape,
    *,
    seed: int = 0,
    on_done: Callable[[RequestOutcome], None] = lambda _: None,
) -> LoadRun:
    """Send all prompts. A cancellation ends the load early, and returns what was measured.

    `on_done` is called after each request. Raises ServerUnreachable if the server is gone at the start.
    """
    bodies = [endpoint.body(prompt) for prompt in prompts]
    due = arrival_times(len(prompts), shape, seed)
    bound = asyncio.Semaphore(shape.max_concurrency) if shape.max_concurrency else nullcontext()
    outcomes = [RequestOutcome(prompt.n_tokens or 0) for prompt in prompts]
    await client.open(min(len(prompts), shape.max_concurrency or _MOST_OPENED, _MOST_OPENED))

    async def send(outcome: RequestOutcome, body: bytes) -> None:
        outcome.arrived_at = time.perf_counter()
        async with bound:
            await _send(client, endpoint.path, body, outcome)
        on_done(outcome)

    was_frozen = gc.get_freeze_count() > 0  # by the caller; unfreeze() would undo that too
    gc.collect()
    gc.freeze()  # a collection would look through all prompts in the middle of the load
    started = time.perf_counter()
    tasks: list[asyncio.Task[None]] = []
    was_interrupted = False
    try:
        for delay, outcome, body in zip(due, outcomes, bodies, strict=True):
            if (wait := started + delay - time.perf_counter()) > 0:
                await asyncio.sleep(wait)  # until the request is due
            tasks.append(asyncio.create_task(send(outcome, body)))
        await asyncio.gather(*tasks)
    except asyncio.CancelledError:
        was_interrupted = True
    finally:
        duration_s = time.perf_counter() - started
        if not was_frozen:
            gc.unfreeze()
        for task in tasks:
            task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    kept = (outcome for outcome, end in zip(outcomes, ended, strict=False) if end is None)
    return LoadRun(tuple(kept), duration_s, was_interrupted)


async def _send(client: StreamClient, path: str, body: bytes, outcome: RequestOutcome) -> None:
    """Send one request, and fill its outcome."""
    stream = AnswerStream(outcome)
    outcome.asked_at = time.perf_counter()
    try:
        reply = await client.request("POST", path, body, stream.feed)
    except ServerUnreachable as error:
        outcome.error = str(error)
        return
    if reply.status != 200:
        outcome.error = f"the server answers {reply.status}: {error_text(reply.body)}"
    elif not outcome.error and not outcome.token_times:
        outcome.error = "the answer has no token"
    elif not outcome.error and not stream.is_done:
        outcome.error = "the stream ends without [DONE]"
