"""One way each to load a model, to run requests in a loop, and to start an engine's process."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import gguf
import psutil

from tests.patience import soon
from tests.zoo.loadable import LOADABLE, qwen2vl, with_vocabulary, write_loadable
from tools.random_model import write_llama
from vram_llm.engine.client import EngineClient
from vram_llm.engine.loop import Loop
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request import Request, SamplingParams, TokenEvent
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.types import FlashAttention, Plan

MOST_STEPS = 20_000
GREEDY = SamplingParams(temperature=0)
Events = dict[str, list[TokenEvent]]
Steps = Callable[[Loop], Iterator[TokenEvent]]
Start = Callable[..., EngineClient]
_ARCHITECTURES = LOADABLE | {"qwen2vl": qwen2vl}

# -- models --------------------------------------------------------------------------------------


EXACT: dict[str, Any] = {"flash_attn": FlashAttention.OFF, "kv_type_k": "f32", "kv_type_v": "f32"}
"""Options of a plan: with them and weights in float32, logits of about 1 do not depend on what else a batch
holds, but for 2e-6. On the processor flash attention adds values up in half precision, in the order of their
cells, and a cache in half precision rounds keys and values that differ in their last bit: up to 2e-2.
"""


def write_f32(path: Path, architecture: str = "llama") -> Path:
    """A small model with weights in float32: quantised ones would add their own, larger rounding."""
    if architecture == "llama":
        return write_llama(path, quant=gguf.GGMLQuantizationType.F32)
    return write_loadable(with_vocabulary(_ARCHITECTURES[architecture]()), path, "F32")


@contextmanager
def loaded(plan: Plan) -> Iterator[LoadedModel]:
    """The plan's model in this process, closed with the block."""
    model = LoadedModel(plan)
    try:
        yield model
    finally:
        model.close()


def forget_all(model: LoadedModel) -> None:
    """Forget what the model has computed for any of its parallel sequences."""
    for slot in range(model.plan.context.parallel):
        model.forget(slot)


# -- loops ---------------------------------------------------------------------------------------


def make_request(name: str, prompt: str | tuple[int, ...] = (1, 50, 60), **options: Any) -> Request:
    """A request for the likeliest tokens, which no end token ends; `options` are Request's and come first."""
    return Request(id=name, prompt=prompt, **{"sampling": GREEDY, "ignore_eos": True, **options})


def turns(loop: Loop) -> Iterator[list[TokenEvent]]:
    """The events of each step until the loop is idle, with an event for each token of a tick."""
    ids: list[str] = []
    for _ in range(MOST_STEPS):
        if loop.is_idle:
            return
        tick, events = loop.step()
        if tick is not None:
            ids = tick.ids or ids
            columns = zip(ids, tick.texts, tick.tokens, strict=True)
            events = [TokenEvent(id=i, text=text, token_ids=(t,)) for i, text, t in columns] + events
        yield events
    raise AssertionError(f"not idle after {MOST_STEPS} steps")


def any_steps(loop: Loop) -> Iterator[TokenEvent]:
    """The events of all steps, as the engine's process runs them: steady ones where they are due."""
    return (event for step in turns(loop) for event in step)


def full_steps(loop: Loop) -> Iterator[TokenEvent]:
    """The events of all steps, also where a steady one is due all of them full."""
    for _ in range(MOST_STEPS):
        if loop.is_idle:
            return
        yield from full_step(loop)
    raise AssertionError(f"not idle after {MOST_STEPS} steps")


def full_step(loop: Loop) -> list[TokenEvent]:
    """The events of one full step, also where a steady one is due."""
    return loop._full_step()


def run(loop: Loop, *requests: Request, steps: Steps = any_steps) -> Events:
    """Submit all at once and step until the loop is idle; the events of each request, in order.

    A refusal is the last event of its request, wherever it comes from. Nothing follows a last event.
    """
    events: Events = {request.id: [] for request in requests}
    for request in requests:
        if (event := loop.submit(request)) is not None:
            events[event.id].append(event)
    drain(loop, events, steps)
    return events


def drain(loop: Loop, events: Events, steps: Steps = any_steps) -> None:
    """Step until the loop is idle, and add the events to those of their requests."""
    for event in steps(loop):
        earlier = events[event.id]
        assert not earlier or earlier[-1].finish_reason is None, f"an event of {event.id} after its end"
        earlier.append(event)


def empty(loop: Loop) -> None:
    """Evict all that is idle, from the cells and from the host; nothing may be left."""
    while loop._cache.evict():
        pass
    loop._cache.store.close()
    assert loop.stats().n_cells_used == 0


def tokens_of(events: Sequence[TokenEvent]) -> list[int]:
    """The tokens of an answer."""
    return [token for event in events for token in event.token_ids]


def text_of(events: Sequence[TokenEvent]) -> str:
    """The text of an answer."""
    return "".join(event.text for event in events)


# -- processes -----------------------------------------------------------------------------------


@asynccontextmanager
async def starting() -> AsyncIterator[Start]:
    """Starts clients of a plan and a name, whose engines then load; all are stopped with the block."""
    clients: list[EngineClient] = []

    def start(plan: Plan, name: str = "tiny", **options: Any) -> EngineClient:
        clients.append(EngineClient(plan, name, **options))
        clients[-1].start()
        return clients[-1]

    try:
        yield start
    finally:
        for client in clients:
            await soon(client.stop())
            assert client.state is EngineState.DEAD


@asynccontextmanager
async def running(plan: Plan, name: str = "tiny") -> AsyncIterator[EngineClient]:
    """A client whose engine has loaded the plan's model in a process of its own; it ends with the block."""
    async with starting() as start:
        client = start(plan, name)
        await soon(client.ready())
        yield client


def engine_processes() -> list[psutil.Process]:
    """The engine processes that this process has started and that have not ended."""
    found = []
    for child in psutil.Process().children():
        try:
            if "vram_llm.engine.worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found
