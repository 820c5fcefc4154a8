"""Events of an answer wait for their reader, in order, and not without end."""

import asyncio
import contextlib

import pytest

from vram_llm.engine.request import FinishReason, TokenEvent
from vram_llm.engine.unread_events import MAX_UNREAD, UnreadEvents
from vram_llm.errors import RequestTimeout


def _event(number: int) -> TokenEvent:
    return TokenEvent(id="r", token_ids=(number,))


async def test_events_are_taken_in_order_before_and_after_they_come() -> None:
    events = UnreadEvents(pytest.fail)
    events.put(_event(0))
    assert await events.take() == _event(0)
    waits = asyncio.ensure_future(events.take())
    await asyncio.sleep(0)  # it waits
    events.put(_event(1))
    events.put(_event(2))
    assert await waits == _event(1)
    assert await events.take() == _event(2)


async def test_a_cancelled_reader_loses_no_event() -> None:
    events = UnreadEvents(pytest.fail)
    waits = asyncio.ensure_future(events.take())
    await asyncio.sleep(0)  # it waits
    events.put(_event(0))
    waits.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waits
    events.put(_event(1))
    assert [await events.take() for _ in range(2)] == [_event(0), _event(1)]


async def test_an_error_takes_the_place_of_the_first_event_too_many() -> None:
    overflows: list[None] = []
    events = UnreadEvents(lambda: overflows.append(None))
    for number in range(MAX_UNREAD + 10):
        events.put(_event(number))
    assert [await events.take() for _ in range(MAX_UNREAD)] == [_event(n) for n in range(MAX_UNREAD)]
    assert isinstance(await events.take(), RequestTimeout)
    assert len(overflows) == 1


async def test_events_are_offered_to_be_taken_at_once_only_while_the_reader_waits() -> None:
    taken = list[TokenEvent]()

    def take(event: TokenEvent) -> bool:
        taken.append(event)
        return event != _event(3)

    events = UnreadEvents(pytest.fail, take)
    events.put(_event(0))  # nobody waits
    assert await events.take() == _event(0)
    waits = asyncio.ensure_future(events.take())
    await asyncio.sleep(0)  # it waits
    for number in range(1, 5):
        events.put(_event(number))
    assert taken == [_event(1), _event(2), _event(3)]  # the last one was left, and 4 has to come after it
    assert await waits == _event(3)
    assert await events.take() == _event(4)


async def test_the_last_event_and_errors_come_to_the_reader() -> None:
    last = TokenEvent(id="r", finish_reason=FinishReason.STOP)
    for news in (last, RequestTimeout("late")):
        events = UnreadEvents(pytest.fail, lambda _: pytest.fail("it is not offered"))
        waits = asyncio.ensure_future(events.take())
        await asyncio.sleep(0)  # it waits
        events.put(news)
        assert await waits == news


async def test_an_error_while_an_event_is_taken_comes_to_the_reader() -> None:
    broken = ValueError("broken")

    def take(event: TokenEvent) -> bool:
        raise broken

    events = UnreadEvents(pytest.fail, take)
    waits = asyncio.ensure_future(events.take())
    await asyncio.sleep(0)  # it waits
    events.put(_event(0))
    assert await waits is broken
