"""A line of the log every ten seconds while the engine works."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from vram_llm.engine.activity import EngineActivity

LINE_EVERY_S = 10.0
log = logging.getLogger("vram_llm.load")


class WithActivity(Protocol):
    """EngineClient, as far as its load is concerned."""

    @property
    def activity(self) -> EngineActivity: ...


async def report_load(
    engine: WithActivity,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Log the load every LINE_EVERY_S, if requests are in flight or were since the last line.

    Rates are since the line before it would have been. Ends when it is cancelled.
    """
    before, before_at = engine.activity, clock()
    while True:
        await pause(LINE_EVERY_S)
        now, now_at = engine.activity, clock()
        if now.requests or now.totals.n_steps > before.totals.n_steps:
            log.info("load", extra={"fields": load_fields(before, now, now_at - before_at)})
        before, before_at = now, now_at


def load_fields(before: EngineActivity, now: EngineActivity, seconds: float) -> dict[str, Any]:
    """The figures of a line: sequences now, and rates in the `seconds` between."""
    new, old = now.totals, before.totals
    n_begun = new.n_begun_prompt_tokens - old.n_begun_prompt_tokens
    fields: dict[str, Any] = {
        "running": now.n_running,
        "waiting": now.n_waiting,
        "kv_usage": round(now.kv_usage, 3),
        "prompt_tokens_per_s": round((new.n_prompt_tokens - old.n_prompt_tokens) / seconds, 1),
        "generation_tokens_per_s": round((new.n_generated_tokens - old.n_generated_tokens) / seconds, 1),
    }
    if n_begun:
        n_reused = new.n_begun_cached_tokens - old.n_begun_cached_tokens
        fields["prefix_hit_rate"] = round(n_reused / n_begun, 3)
    return fields
