"""From a request over HTTP to its sequences in the engine, and from their events to choices."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from secrets import randbits
from typing import Any, TypeVar, cast

from starlette.types import Receive

from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import Image, Likelihood, Request, TokenEvent
from vram_llm.errors import RequestError
from vram_llm.server.api_keys import ApiKey, current_key
from vram_llm.server.config import ServerConfig
from vram_llm.server.errors import GenerationFailed, error_of
from vram_llm.server.image_inputs import MAX_IMAGES_BYTES
from vram_llm.server.prompt_limits import check_grammar_size, check_text_fits
from vram_llm.server.replies import Ending, UsageCounter
from vram_llm.server.request_record import record_of_request
from vram_llm.server.sampling_defaults import sampling_defaults
from vram_llm.server.schemas import MAX_CHOICES, GenerationFields

T = TypeVar("T")
_MOST_AHEAD = 1024  # events of several choices that their client has not read; the engine bounds the rest
_NAMESPACE_BITS = 55  # of Request.namespace
TokenEvents = AsyncGenerator[tuple[int, TokenEvent], None]  # (index of the choice, its next event)


@dataclass(frozen=True, slots=True)
class CompletedChoice:
    """A finished choice."""

    text: str
    finish_reason: Ending
    logprobs: tuple[Likelihood, ...] = ()
    prompt_logprobs: tuple[Likelihood, ...] = ()


def engine_requests(
    fields: GenerationFields,
    base: Request,
    info: ModelInfo,
    prompts: Sequence[str | tuple[int, ...]] = (),
    best_of: int | None = None,
    *,
    config: ServerConfig,
) -> list[Request]:
    """One request per choice: `best_of`, or else `n`, for each prompt, with the seeds seed, seed + 1, ...

    Each is `base` with the sampling and the stop conditions of `fields`. Without `prompts`, each has the
    prompt of `base`. Raises RequestError.
    """
    prompts = prompts or [base.prompt]
    n, name = (fields.n_choices, "n") if best_of is None else (best_of, "best_of")
    _check_size(n, name, len(prompts), base.images)
    check_grammar_size(base.grammar)
    for text in (*prompts, base.suffix):
        if isinstance(text, str):
            check_text_fits(info, len(text))
    fields.check_context(info.n_ctx)
    min_tokens = fields.min_tokens or 0
    if base.max_tokens is not None and min_tokens > base.max_tokens:
        raise RequestError(
            f"'min_tokens' is {min_tokens:,} and the answer may have {base.max_tokens:,} tokens at most",
            "min_tokens",
        )
    sampling = fields.sampling(info.n_vocab, sampling_defaults(info, config))
    key = current_key.get()
    of_all = partial(
        replace,
        base,
        min_tokens=min_tokens,
        stop=fields.stops(),
        stop_token_ids=fields.stop_ids(info.n_vocab),
        ignore_eos=bool(fields.ignore_eos),
        skip_special_tokens=fields.skip_special_tokens is not False,
        adapters=fields.adapters(info),
        namespace=key.cache_namespace if fields.cache_prompt is not False else randbits(_NAMESPACE_BITS),
        client=key.name,
        weight=key.usage.limits.weight,
        reports_progress=bool(fields.stream) or not key.usage.is_unlimited,  # clients may leave early
        whole=not fields.stream,
        arrived_at=record_of_request().began_at,
        n_indent=fields.n_indent or 0,
        line_time_s=fields.line_time_s,
        max_time_s=min((s for s in (fields.max_time, config.request_timeout_s) if s), default=None),
    )
    return [
        of_all(
            id=f"{base.id}-{i * n + k}",
            prompt=prompt,
            sampling=sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + k),
            n=0 if k else n,
            id_slot=None if k else fields.slot(info.parallel),  # further choices run next to it
        )
        for i, prompt in enumerate(prompts)
        for k in range(n)
    ]


def _check_size(n: int, name: str, n_prompts: int, images: Sequence[Image]) -> None:
    """Raises RequestError if `n` choices, by the field `name`, are too many or have too many images."""
    if n * n_prompts > MAX_CHOICES:
        raise RequestError(
            f"{n_prompts} prompts with {name} = {n} ask for {n * n_prompts} choices; at most "
            f"{MAX_CHOICES} are made in one request, so send several",
            name if n > 1 else "prompt",
        )
    if (n_bytes := n * sum(len(image.data) for image in images)) > MAX_IMAGES_BYTES:
        raise RequestError(
            f"'n' of {n} choices over these images is {n_bytes:,} bytes for the engine to read; "
            f"{MAX_IMAGES_BYTES:,} is the most, so send several requests",
            "n",
        )


def stream_events(engine: Engine, requests: Sequence[Request]) -> TokenEvents:
    """The events of all requests, in order of arrival. The first error, or closing this, ends them all.

    They count for the key that asks. They raise RateLimited, and the errors of the engine.
    """
    record_of_request().note_submission(len(requests), [request.prompt for request in requests])
    key = current_key.get()
    return _joined(engine, requests) if key.usage.is_unlimited else _counted(engine, requests, key)


async def _counted(engine: Engine, requests: Sequence[Request], key: ApiKey) -> TokenEvents:
    with key.usage.sequences(len(requests), partial(engine.seconds_until_done, client=key.name)):
        computed = [0] * len(requests)  # tokens of each prompt
        async with aclosing(_joined(engine, requests)) as events:
            async for index, event in events:
                n_before, computed[index] = computed[index], max(computed[index], _n_prompt_computed(event))
                key.usage.spend(len(event.token_ids) + computed[index] - n_before)
                yield index, event


def _n_prompt_computed(event: TokenEvent) -> int:
    """The prompt's tokens that were computed until an event, cached ones left out; 0 if it does not tell."""
    n_done = event.prompt_tokens if event.prompt_done is None else event.prompt_done
    return n_done - event.cached_tokens


def _joined(engine: Engine, requests: Sequence[Request]) -> TokenEvents:
    return _events(engine, requests[0]) if len(requests) == 1 else _pumped(engine, requests)


async def _pumped(engine: Engine, requests: Sequence[Request]) -> TokenEvents:
    queue: asyncio.Queue[tuple[int, TokenEvent] | Exception | None] = asyncio.Queue(_MOST_AHEAD)
    tasks = [asyncio.create_task(_pump(engine, r, i, queue)) for i, r in enumerate(requests)]
    n_running = len(tasks)
    try:
        while n_running:
            item = await queue.get()
            if item is None:
                n_running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        await cancel_and_wait(*tasks)


async def collect_choices(
    token_events: TokenEvents, n_choices: int, counter: UsageCounter
) -> list[CompletedChoice]:
    """All finished choices, in order."""
    events: list[list[TokenEvent]] = [[] for _ in range(n_choices)]
    endings: dict[int, Ending] = {}
    async with aclosing(token_events):
        async for index, event in token_events:
            events[index].append(event)
            if event.finish_reason is not None:
                endings[index] = cast(Ending, event.finish_reason.value)
                counter.add(index, event)
    return [
        CompletedChoice(
            text="".join(event.text for event in of_choice),
            finish_reason=endings[index],
            logprobs=tuple(token for event in of_choice for token in event.logprobs),
            prompt_logprobs=tuple(token for event in of_choice for token in event.prompt_logprobs),
        )
        for index, of_choice in enumerate(events)
    ]


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None if the client disconnects first.

    `work` is then cancelled, and has ended when this returns. The request's body must have been read.
    """
    task, has_left = asyncio.current_task(), False
    assert task is not None
    watching = asyncio.ensure_future(_disconnected(receive))

    def leave(_: object) -> None:
        nonlocal has_left
        has_left = True
        task.cancel()

    watching.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if has_left and task.cancelling() == 1:
            return None
        raise  # somebody else cancelled it
    finally:
        watching.remove_done_callback(leave)
        if has_left:
            task.uncancel()
        await cancel_and_wait(watching)


async def _events(engine: Engine, request: Request, index: int = 0) -> TokenEvents:
    record = record_of_request()
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if record.first_token_at is None and event.token_ids:
                record.note_first_token(engine.queue_s(request.id))
            if event.finish_reason is None:
                yield index, event
                continue
            record.note_end(request, event)
            error = error_of(event)
            if error is not None:
                raise error
            yield index, event
            return
    raise GenerationFailed("The engine ended this request without a reason; send it again")


async def _pump(
    engine: Engine,
    request: Request,
    index: int,
    queue: asyncio.Queue[tuple[int, TokenEvent] | Exception | None],
) -> None:
    try:
        async with aclosing(_events(engine, request, index)) as events:
            async for event in events:
                await queue.put(event)
        await queue.put(None)
    except Exception as error:  # `stream_events` raises it
        await queue.put(error)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def cancel_and_wait(*tasks: asyncio.Future[Any]) -> None:
    """Cancel `tasks` and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
