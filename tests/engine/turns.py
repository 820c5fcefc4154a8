"""What the engine's process does between messages: a step by the short way where there is one."""

from collections.abc import Iterator

from vram_llm.engine.loop import Loop
from vram_llm.engine.request import TokenEvent

MOST_STEPS = 5000


def turns(loop: Loop) -> Iterator[list[TokenEvent]]:
    """The news of each step until nothing is left, those by the short way told like the others."""
    ids: list[str] = []
    for _ in range(MOST_STEPS):
        if loop.is_idle:
            return
        tick, news = loop.decode_on() or (None, loop.step())
        if tick is not None:
            ids = tick.ids or ids
            told = zip(ids, tick.texts, tick.tokens, strict=True)
            news = [TokenEvent(id=name, text=text, token_ids=(token,)) for name, text, token in told] + news
        yield news
    raise AssertionError(f"not idle after {MOST_STEPS} steps")


def events(loop: Loop) -> Iterator[TokenEvent]:
    """The same, one by one."""
    return (event for news in turns(loop) for event in news)
