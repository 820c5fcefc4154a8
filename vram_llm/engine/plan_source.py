"""The plan of each load of the engine: the first one, or another if the model's files have changed."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from vram_llm.engine.file_watch import watch_files
from vram_llm.errors import BadPlan
from vram_llm.model.file_identity import FileIdentity, change_of, now
from vram_llm.planner.types import Plan

log = logging.getLogger("vram_llm.engine")

Replan = Callable[[], Plan]


@dataclass(slots=True)
class PlanSource:
    """Plans for loads. `replan` plans again; without it a plan whose files have changed is refused."""

    plan: Plan
    replan: Replan | None = None
    warnings: tuple[str, ...] = ()  # on files that are not as they were before the last load
    _loaded: tuple[FileIdentity, ...] = ()

    async def for_load(self) -> Plan:
        """The plan to load now. Raises BadPlan, and the errors of `replan`."""
        self.warnings = ()
        return await asyncio.to_thread(self._for_load)

    async def watch(self) -> None:
        """Look at the files of the last load for ever."""

        def note(warnings: tuple[str, ...]) -> None:
            self.warnings = warnings

        await watch_files(self._loaded, note)

    def _for_load(self) -> Plan:
        changes = [change for file in self.plan.files if (change := change_of(file)) is not None]
        if changes:
            if self.replan is None:
                raise BadPlan(f"{changes[0]}; plan again")
            log.warning("%s: it is planned anew", changes[0])
            self.plan = self.replan()
        self._loaded = tuple(now(file) for file in self.plan.files)
        return self.plan
