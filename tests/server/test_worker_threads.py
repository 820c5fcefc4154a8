"""Chats of several clients become prompts side by side."""

import asyncio
import threading
from dataclasses import replace

from tests.patience import soon
from vram_llm.server.api_keys import ANYBODY, current_key
from vram_llm.server.worker_threads import prepare_in_thread


async def test_slow_chats_of_a_client_hold_up_its_own_alone() -> None:
    release, begun = threading.Event(), threading.Semaphore(0)

    def slow() -> str:
        begun.release()
        release.wait()
        return current_key.get().name

    async def ask(client: str) -> str:
        current_key.set(replace(ANYBODY, name=client))
        return await prepare_in_thread(slow if client == "slow" else lambda: client)

    asked = [asyncio.create_task(ask("slow")) for _ in range(40)]
    await asyncio.sleep(0)  # each asks at its task's first turn
    assert await soon(asyncio.create_task(ask("quick"))) == "quick"
    for _ in range(2):
        assert await soon(asyncio.to_thread(begun.acquire))
    assert not begun.acquire(blocking=False)
    release.set()
    assert await soon(asyncio.gather(*asked)) == ["slow"] * 40
