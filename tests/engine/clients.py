"""Requests and streams of a client, and refusals to load."""

import dataclasses
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.harness import engine_processes, make_request
from tests.patience import soon
from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request import Request, SamplingParams, TokenEvent
from vram_llm.errors import VramLLMError
from vram_llm.planner.types import Plan


def request(name: str, **options: Any) -> Request:
    return make_request(name, **{"max_tokens": 8, **options})


async def answer(engine: EngineClient, name: str, **options: Any) -> list[TokenEvent]:
    return [event async for event in engine.generate(request(name, **options))]


async def begun(engine: EngineClient, name: str, **options: Any) -> AsyncGenerator[TokenEvent, None]:
    """A stream that would go on for very long, after its first token. No other engine continues it."""
    stream = engine.generate(request(name, **{"max_tokens": None, "sampling": SamplingParams(), **options}))
    assert (await soon(anext(stream))).token_ids
    return stream


async def exhaust(stream: AsyncGenerator[TokenEvent, None]) -> None:
    async for _ in stream:
        pass


def with_path(plan: Plan, path: Path) -> Plan:
    return dataclasses.replace(plan, model=dataclasses.replace(plan.model, path=str(path)))


async def refusal_of(engine: EngineClient) -> VramLLMError:
    """The error that ready() raises; by then the process has ended, and no other is started."""
    with pytest.raises(VramLLMError) as refusal:
        await soon(engine.ready())
    assert engine.state is EngineState.DEAD
    assert engine.failure is refusal.value
    assert engine_processes() == []
    return refusal.value


def replaced_worker(folder: Path, script: str) -> str:
    """A program for `sys.executable` that runs `script` as the engine's worker, with its arguments."""
    (folder / "worker.py").write_text(script)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/worker.py "$@"\n')
    python.chmod(0o755)
    return str(python)
