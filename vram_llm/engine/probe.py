"""Load a plan, run a warm-up prefill and decode, measure, unload."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import EmbeddingRequest, FinishReason, Request, SamplingParams
from vram_llm.errors import EngineDied
from vram_llm.planner.types import Plan

_T = TypeVar("_T")
_DECODED_TOKENS = 4  # per sequence: CUDA graphs are captured at a repeated decode


async def run(
    plan: Plan, measure: Callable[[int], _T], on_state: Callable[[EngineClient], None] = lambda _: None
) -> tuple[ModelInfo, _T]:
    """Load `plan`, warm up, and call `measure` with the engine's process id while it holds its memory.

    Raises ModelRefused, BadPlan, EngineDied.
    """
    engine = EngineClient(plan, plan.model.name, on_state)
    engine.start()
    try:
        info = await engine.ready()
        await _warm_up(engine, info)
        assert engine.pid is not None
        return info, measure(engine.pid)
    finally:
        await engine.stop()


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
