"""What tests of the client share: waiting with an end, requests, streams, and the processes there are."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request import Request, SamplingParams, TokenEvent
from vram_llm.errors import VramLLMError
from vram_llm.planner.types import Plan

PATIENCE_S = 30.0
T = TypeVar("T")
Start = Callable[..., EngineClient]


async def soon(wanted: Awaitable[T]) -> T:
    """What is awaited, or a failure in place of a test that hangs."""
    return await asyncio.wait_for(wanted, PATIENCE_S)


def engine_processes() -> list[psutil.Process]:
    """The engine processes that this one has started and that have not ended."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "vram_llm.engine.worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def request(name: str, **options: Any) -> Request:
    return Request(
        id=name,
        **{
            "prompt": (1, 50, 60),
            "max_tokens": 8,
            "ignore_eos": True,
            "sampling": SamplingParams(temperature=0),
            **options,
        },
    )


async def answer(engine: EngineClient, name: str, **options: Any) -> list[TokenEvent]:
    return [event async for event in engine.generate(request(name, **options))]


def tokens(events: list[TokenEvent]) -> list[int]:
    return [token for event in events for token in event.token_ids]


async def begun(engine: EngineClient, name: str) -> AsyncGenerator[TokenEvent, None]:
    """A stream that would go on for very long, after its first token."""
    stream = engine.generate(request(name, max_tokens=None))
    assert (await soon(anext(stream))).token_ids
    return stream


async def exhaust(stream: AsyncGenerator[TokenEvent, None]) -> None:
    async for _ in stream:
        pass


def with_path(plan: Plan, path: Path) -> Plan:
    return dataclasses.replace(plan, model=dataclasses.replace(plan.model, path=str(path)))


async def refusal_of(engine: EngineClient) -> VramLLMError:
    """What ready() raises; the process is gone by then, and no other is begun."""
    with pytest.raises(VramLLMError) as refusal:
        await soon(engine.ready())
    assert engine.state is EngineState.DEAD
    assert engine.failure is refusal.value
    assert engine_processes() == []
    return refusal.value
