"""Threads for work that would hold up the event loop, and that must not hold up other work for threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

BODIES = ThreadPoolExecutor(1, "bodies")  # of requests, one at a time
CHATS = ThreadPoolExecutor(32, "chats")  # they wait for the processes that render templates


async def run_in(
    threads: ThreadPoolExecutor,
    work: Callable[Arguments, Result],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Result:
    """The result of `work`, which sees the context variables of the caller, as with asyncio.to_thread."""
    call = partial(copy_context().run, work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(threads, call)
