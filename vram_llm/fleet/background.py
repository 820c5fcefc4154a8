"""Tasks that nobody awaits."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("vram_llm.fleet")


def run_in_background(
    work: Coroutine[Any, Any, None], tasks: "set[asyncio.Task[None]]"
) -> "asyncio.Task[None]":
    """Run `work` in a task, which `tasks` has until it ends. An error that it raises is logged."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    task.add_done_callback(_log_error)
    return task


def _log_error(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a task in the background failed", exc_info=error)
