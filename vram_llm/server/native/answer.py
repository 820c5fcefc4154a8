"""From the fields of a native request to its answer, whole or as a stream."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from math import inf
from uuid import uuid4

import msgspec
from starlette.responses import Response

from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import Image, Infill, Request, TokenEvent
from vram_llm.errors import RequestError
from vram_llm.server.generation import TokenEvents, engine_requests, stream_events
from vram_llm.server.image_inputs import MAX_IMAGES_BYTES
from vram_llm.server.json_reply import JsonReply
from vram_llm.server.logit_bias import resolve_text_biases
from vram_llm.server.native.choice import NativeChoice
from vram_llm.server.native.fields import NativeFields
from vram_llm.server.native.prompts import NativePrompts
from vram_llm.server.native.writer import NativeChunks
from vram_llm.server.serving_context import ServingContext
from vram_llm.server.sse import EventStream
from vram_llm.server.timings import ChoiceClock, timed


async def native_answer(
    serving: ServingContext,
    info: ModelInfo,
    fields: NativeFields,
    given: NativePrompts,
    gap: Infill | None = None,
) -> Response:
    """The reply to a native request. The answer fills the `gap`, if there is one. Raises RequestError."""
    fields.logit_bias = await resolve_text_biases(fields.logit_bias, serving.engine)
    requests = [replace(request, infill=gap) for request in _requests(serving, info, fields, given)]
    clocks = [ChoiceClock() for _ in requests]
    choices = [
        NativeChoice(index, request, fields, info, clock)
        for index, (request, clock) in enumerate(zip(requests, clocks, strict=True))
    ]
    events = timed(stream_events(serving.engine, requests), clocks)
    ping_s = serving.config.sse_ping_interval_s
    if fields.stream:
        return EventStream[TokenEvent](NativeChunks(choices), events, ping_s)
    return JsonReply(_whole(choices, events), ping_s)


def _requests(
    serving: ServingContext, info: ModelInfo, fields: NativeFields, given: NativePrompts
) -> list[Request]:
    """The engine's requests, one per choice of each prompt. Raises RequestError."""
    base = Request(
        id=f"cmpl-{uuid4().hex}",
        prompt=given.prompts[0],
        max_tokens=fields.token_limit(serving.config.n_predict),
        logprobs=fields.n_top,
        grammar=fields.grammar_wanted(),
        post_sampling=bool(fields.post_sampling_probs and fields.n_top),
        returns_prompt=fields.wants("prompt"),
    )
    requests = engine_requests(fields, base, info, given.prompts, config=serving.config)
    if any(given.images):
        requests = _with_images(requests, given.images, fields.n_choices)
    return [_without_ends(request, info.ends) for request in requests] if fields.ignore_eos else requests


def _with_images(requests: list[Request], images: Sequence[tuple[Image, ...]], n: int) -> list[Request]:
    """The requests, `n` for each prompt, with the images of their prompts. Raises RequestError."""
    n_bytes = n * sum(len(image.data) for group in images for image in group)
    if n_bytes > MAX_IMAGES_BYTES:
        raise RequestError(
            f"'prompt' has images of {n_bytes:,} bytes for all choices; {MAX_IMAGES_BYTES:,} is the most",
            "prompt",
        )
    return [replace(request, images=images[i // n]) for i, request in enumerate(requests)]


def _without_ends(request: Request, ends: tuple[int, ...]) -> Request:
    """As llama-server's `ignore_eos`: tokens that end an answer are never sampled."""
    biases = {**(request.sampling.logit_bias or {}), **dict.fromkeys(ends, -inf)}
    return replace(request, sampling=replace(request.sampling, logit_bias=biases or None))


async def _whole(choices: list[NativeChoice], token_events: TokenEvents) -> bytes:
    """The reply as JSON: an object, or a list of several choices."""
    finals: dict[int, dict[str, object]] = {}
    async with aclosing(token_events) as events:
        async for index, event in events:
            choices[index].observe(event)
            if event.finish_reason is not None:
                finals[index] = choices[index].final(event)
    objects = [finals[index] for index in range(len(choices))]
    return msgspec.json.encode(objects[0] if len(objects) == 1 else objects)
