"""Load a plan, run a warm-up prefill and decode, measure, unload."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import EmbeddingRequest, FinishReason, Request, SamplingParams
from vram_llm.errors import EngineDied
from vram_llm.planner.types import Plan

_T = TypeVar("_T")
_SCORED_TOKENS, _WRITTEN_TOKENS = 128, 16  # of each prompt whose logits are compared, and after it
_DECODED_TOKENS = 4  # per sequence: CUDA graphs are captured at a repeated decode


class ScoredToken(NamedTuple):
    """A token, and its log probability after the tokens before it."""

    token: int
    logprob: float


Scores = tuple[tuple[ScoredToken, ...], ...]  # of each prompt


async def run(
    plan: Plan, measure: Callable[[int], _T], on_state: Callable[[EngineClient], None] = lambda _: None
) -> tuple[ModelInfo, _T]:
    """Load `plan`, warm up, and call `measure` with the engine's process id while it holds its memory.

    Raises ModelRefused, BadPlan, EngineDied.
    """
    async with _warm_engine(plan, on_state) as (engine, info):
        assert engine.pid is not None
        return info, measure(engine.pid)


async def run_and_score(
    plan: Plan, measure: Callable[[int], _T], on_state: Callable[[EngineClient], None] = lambda _: None
) -> tuple[ModelInfo, _T, Scores]:
    """The same as `run`, and then score fixed prompts, each with tokens that the model writes after it.

    Raises ModelRefused, BadPlan, EngineDied.
    """
    async with _warm_engine(plan, on_state) as (engine, info):
        assert engine.pid is not None
        measured = measure(engine.pid)
        n_prompt = max(min(_SCORED_TOKENS, info.n_ctx // info.parallel - _WRITTEN_TOKENS - 1), 1)
        prompts = [tuple((i * 7919 + seed) % info.n_vocab for i in range(n_prompt)) for seed in (101, 4099)]
        return info, measured, tuple([await _scored(engine, prompt) for prompt in prompts])


@asynccontextmanager
async def _warm_engine(
    plan: Plan, on_state: Callable[[EngineClient], None]
) -> AsyncIterator[tuple[EngineClient, ModelInfo]]:
    """An engine that has loaded `plan` and warmed up; it is stopped after the block."""
    engine = EngineClient(plan, plan.model.name, on_state)
    engine.start()
    try:
        info = await engine.ready()
        await _warm_up(engine, info)
        yield engine, info
    finally:
        await engine.stop()


async def _scored(engine: EngineClient, prompt: tuple[int, ...]) -> tuple[ScoredToken, ...]:
    request = Request(
        id=f"score {prompt[0]}",
        prompt=prompt,
        max_tokens=_WRITTEN_TOKENS,
        ignore_eos=True,
        sampling=SamplingParams(temperature=0),
        logprobs=0,
        prompt_logprobs=0,
    )
    found = list[ScoredToken]()
    async for event in engine.generate(request):
        if event.finish_reason is FinishReason.ERROR:
            raise EngineDied(f"the model is loaded but does not run: {event.error}")
        chosen = [each.chosen for each in (*event.prompt_logprobs, *event.logprobs)]
        found += [ScoredToken(each.token, each.logprob) for each in chosen if each.logprob is not None]
    return tuple(found)


async def _warm_up(engine: EngineClient, info: ModelInfo) -> None:
    """Prefill one full micro-batch, then decode all sequences at once; or embed a text of that length.

    Memory pools, BLAS workspaces and graphs are made only when they are first used.
    """
    context = engine.plan.context
    if context.pooling is not None:
        text = tuple(i * 7919 % info.n_vocab for i in range(min(context.n_ubatch, info.n_ctx_train)))
        await engine.embed(EmbeddingRequest(id="embed", inputs=(text,)))
        return
    n_prompt = min(context.n_ubatch, info.n_ctx - 1)
    # many different tokens, so that all experts of a mixture are used
    prompt = tuple(i * 7919 % info.n_vocab for i in range(n_prompt))
    await _generate(engine, "prefill", prompt, 1)
    sequences = range(context.parallel)
    await asyncio.gather(
        *(_generate(engine, f"decode {i}", (i % info.n_vocab,), _DECODED_TOKENS) for i in sequences)
    )


async def _generate(engine: EngineClient, request_id: str, prompt: tuple[int, ...], n_tokens: int) -> None:
    request = Request(
        id=request_id,
        prompt=prompt,
        max_tokens=n_tokens,
        ignore_eos=True,
        sampling=SamplingParams(temperature=0),
    )
    async for event in engine.generate(request):
        if event.finish_reason is FinishReason.ERROR:
            raise EngineDied(f"the model is loaded but does not run: {event.error}")
