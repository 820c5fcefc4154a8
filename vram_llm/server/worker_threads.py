"""Threads for work that would hold up the event loop, and that must not hold up other work for threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from vram_llm.server.api_keys import current_key

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

BODIES = ThreadPoolExecutor(1, "bodies")  # of requests, one at a time
_CHATS = ThreadPoolExecutor(32, "chats")  # they wait for the processes that render templates
_CHATS_OF_CLIENT = 2  # at once, half of these processes
_turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # by client, while it has chats


async def run_in(
    threads: ThreadPoolExecutor,
    work: Callable[Arguments, Result],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Result:
    """The result of `work`, which sees the context variables of the caller, as with asyncio.to_thread."""
    call = partial(copy_context().run, work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(threads, call)


async def prepare_in_thread(
    work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """The result of `work`, which makes a prompt of a chat. A client with slow ones waits for its own."""
    client = current_key.get().name
    turn = _turns.setdefault(client, asyncio.Semaphore(_CHATS_OF_CLIENT))
    async with turn:
        return await run_in(_CHATS, work, *args, **kwargs)
