"""Steps of a loop until it is idle, as the engine's process runs them, and single full steps."""

from collections.abc import Iterator

from vram_llm.engine.loop import Loop
from vram_llm.engine.request import TokenEvent

MAX_STEPS = 5000


def turns(loop: Loop) -> Iterator[list[TokenEvent]]:
    """The events of each step until the loop is idle, with an event for each token of a tick."""
    ids: list[str] = []
    for _ in range(MAX_STEPS):
        if loop.is_idle:
            return
        tick, events = loop.step()
        if tick is not None:
            ids = tick.ids or ids
            columns = zip(ids, tick.texts, tick.tokens, strict=True)
            events = [TokenEvent(id=i, text=text, token_ids=(t,)) for i, text, t in columns] + events
        yield events
    raise AssertionError(f"not idle after {MAX_STEPS} steps")


def events(loop: Loop) -> Iterator[TokenEvent]:
    """The events of all steps, one by one."""
    return (event for step in turns(loop) for event in step)


def full_step(loop: Loop) -> list[TokenEvent]:
    """The events of a full step, also where a steady one is due."""
    return loop._full_step()
