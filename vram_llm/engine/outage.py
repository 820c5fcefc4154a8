"""Waits between starts of the engine, which end early if a file or a worker of its plan is back."""

import asyncio
import contextlib
import os

from vram_llm.planner.types import Plan

_LOOK_EVERY_S = 1.0
_CONNECT_S = 1.0

Look = tuple[tuple[int, ...] | bool, ...]  # files by size, time and inode, workers by whether they answer


class OutageWatch:
    """Compares looks at a plan's files and workers, also with those before the last start."""

    def __init__(self) -> None:
        self._seen: Look | None = None

    async def wait(self, plan: Plan, delay_s: float) -> None:
        """Wait `delay_s`, or until something has changed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                while True:
                    before, self._seen = self._seen, await _look(plan)
                    if before not in (None, self._seen):
                        return
                    await asyncio.sleep(_LOOK_EVERY_S)  # between two looks at what is missing


async def _look(plan: Plan) -> Look:
    paths = (plan.model.path, *(companion.path for companion in plan.companions))
    files = await asyncio.to_thread(lambda: [_file(path) for path in paths])
    used = {device.endpoint for device in plan.devices if device.id in plan.used and device.endpoint}
    return (*files, *await asyncio.gather(*map(_answers, sorted(used))))


def _file(path: str) -> tuple[int, ...]:
    """Size, time and inode; nothing for no file."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ino


async def _answers(endpoint: str) -> bool:
    """Whether somebody listens at "host:port" or "[IPv6 address]:port"."""
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True
