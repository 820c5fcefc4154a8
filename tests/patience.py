"""How long tests wait for an event: so long that no busy machine fails one, and a hang ends with words."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

PATIENCE_S = 300.0  # of every wait in the tests
_LOOK_EVERY_S = 0.05  # at another process
_LOOK_HERE_EVERY_S = 0.01
_MOST_A_LOOK_S = 10.0  # a look counts no longer, so that tests may be stopped and continued

T = TypeVar("T")


def looks() -> Iterator[None]:
    """One turn for each look at something that is to happen, until PATIENCE_S are over."""
    left_s = PATIENCE_S
    while left_s > 0:
        began = time.monotonic()
        yield
        time.sleep(_LOOK_EVERY_S)  # between two looks
        left_s -= min(time.monotonic() - began, _MOST_A_LOOK_S)


async def until(is_so: Callable[[], bool], awaited: str) -> None:
    """Return once `is_so()` is true. Raises AssertionError after PATIENCE_S: `awaited` did not happen."""
    left_s = PATIENCE_S
    while not is_so():
        assert left_s > 0, f"within {PATIENCE_S:.0f} s not {awaited}"
        began = time.monotonic()
        await asyncio.sleep(_LOOK_HERE_EVERY_S)  # between two looks
        left_s -= min(time.monotonic() - began, _MOST_A_LOOK_S)


async def soon(awaited: Awaitable[T]) -> T:
    """The awaited value. Raises AssertionError in place of a test that hangs."""
    try:
        return await asyncio.wait_for(awaited, PATIENCE_S)
    except TimeoutError as error:
        raise AssertionError(f"nothing within {PATIENCE_S:.0f} s from {awaited}") from error
