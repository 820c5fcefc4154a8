"""A line of the log every ten seconds for each model of a fleet that works."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from vram_llm.engine.activity import EngineActivity
from vram_llm.server.fleet.machine_status import running_models
from vram_llm.server.fleet.ports import ServedFleet
from vram_llm.server.fleet.routed_models import RoutedModels
from vram_llm.server.load_log import LINE_EVERY_S, load_fields, log


async def report_fleet_load(
    fleet: ServedFleet,
    models: RoutedModels,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Log the load of each model that has requests, or had some since the last line. See report_load."""
    before: dict[str, tuple[EngineActivity, float]] = {}
    while True:
        now_at = clock()
        for each in running_models(fleet, models):
            name, now = each.model.name, each.activity
            then, then_at = before.get(name, (now, now_at))
            if now_at > then_at and (now.requests or now.totals.n_steps > then.totals.n_steps):
                fields = {"model": name, **load_fields(then, now, now_at - then_at)}
                log.info("load", extra={"fields": fields})
            before[name] = now, now_at
        await pause(LINE_EVERY_S)
