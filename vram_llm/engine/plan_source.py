"""The plan of each load of the engine: the first one, or another if files have changed or memory ran out."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from vram_llm.engine.file_watch import watch_files
from vram_llm.engine.out_of_memory import oom_kills, ran_out
from vram_llm.errors import BadPlan, DoesNotFit, VramLLMError
from vram_llm.model.file_identity import FileIdentity, change_of, now
from vram_llm.planner.smaller_plan import (
    PlanReductions,
    given_up,
    next_reductions,
    plan_with,
    with_smaller_spare,
)
from vram_llm.planner.types import HOST, Plan

log = logging.getLogger("vram_llm.engine")

Replan = Callable[[Plan, PlanReductions], Plan]
"""Makes a plan in place of another one, for the machine as it is now."""


@dataclass(slots=True)
class PlanSource:
    """Plans for loads. Without `replan` a plan whose files have changed is refused, and no weights move."""

    plan: Plan
    replan: Replan | None = None
    _first: Plan | None = None  # before anything was given up
    _reductions: PlanReductions = field(default_factory=PlanReductions)
    _is_due: bool = False  # memory ran out: the next load gets a smaller plan
    _n_kills: int = 0
    _of_files: tuple[str, ...] = ()
    _of_memory: tuple[str, ...] = ()
    _of_pressure: tuple[str, ...] = ()
    _loaded: tuple[FileIdentity, ...] = ()  # the files as they were before the last load

    @property
    def warnings(self) -> tuple[str, ...]:
        """On files that are not as they were before the last load, and on what is given up for memory."""
        return self._of_files + self._of_memory + self._of_pressure

    async def for_load(self) -> Plan:
        """The plan to load now. Raises BadPlan, and the errors of `replan`."""
        self._of_files = self._of_pressure = ()
        return await asyncio.to_thread(self._for_load)

    async def watch(self) -> None:
        """Look at the files of the last load for ever."""

        def note(warnings: tuple[str, ...]) -> None:
            self._of_files = warnings

        await watch_files(self._loaded, note)

    def note_pressure(self, warning: str) -> None:
        """Take note of what the engine has shed while it serves; "": it sheds nothing any more."""
        log.warning("%s", warning or "memory is no longer short")
        self._of_pressure = (warning,) if warning else ()

    def note_failure(self, failure: VramLLMError, *, had_loaded: bool) -> bool:
        """Take note of why an engine ended. True if memory ran out and the next load gets a smaller plan."""
        is_memory, short = ran_out(str(failure), self.plan, oom_kills() - self._n_kills)
        if not is_memory:
            return False
        can_move = self.replan is not None
        reductions = next_reductions(
            self.plan, self._reductions, short, can_move=can_move, had_loaded=had_loaded
        )
        if reductions is None:
            return False
        self._reductions, self._is_due = reductions, True
        return True

    def _for_load(self) -> Plan:
        changes = [change for file in self.plan.files if (change := change_of(file)) is not None]
        if changes and self.replan is None:
            raise BadPlan(f"{changes[0]}; plan again")
        if self.replan is not None and (changes or self._is_due):
            if changes:
                log.warning("%s: it is planned anew", changes[0])
                self._first = None
            self._take(self._replanned(self.replan))
        elif self._is_due:
            self._take(plan_with(self.plan, self._reductions))
        self._loaded = tuple(now(file) for file in self.plan.files)
        self._n_kills = oom_kills()
        return self.plan

    def _replanned(self, replan: Replan) -> Plan:
        """Another plan, with as much kept free on the devices as fits. Raises the errors of `replan`.

        `_reductions` stays: if memory runs out again, the next step follows, and not the same ones again.
        """
        reductions = self._reductions
        while True:
            try:
                return replan(self.plan, reductions)
            except DoesNotFit:
                if not reductions.spare_bytes:
                    raise
                reductions = with_smaller_spare(reductions)

    def _take(self, plan: Plan) -> None:
        """Go on with another plan, and say what it gives up."""
        self._first = self._first or self.plan
        self.plan, is_due, self._is_due = plan, self._is_due, False
        if is_due and (phrases := given_up(self._first, plan)):
            where = _place(self._first, self._reductions.short)
            self._of_memory = (f"{where} ran out of memory: the plan now has {', '.join(phrases)}",)
            log.warning("%s", self._of_memory[0])


def _place(plan: Plan, short: str | None) -> str:
    if short == HOST:
        return "the host"
    names = (f"{device.name} ({device.id})" for device in plan.devices if device.id == short)
    return next(names, "a device")
