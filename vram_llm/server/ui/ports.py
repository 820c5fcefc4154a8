"""The parts of the dashboard's routes that come from outside of the server."""

from dataclasses import dataclass, field
from typing import Protocol

from vram_llm.server.ui.log_ring import LogRing
from vram_llm.server.ui.plan_fields import PlanFields


class WhatIfPlanner(Protocol):
    """Plans the served model for what-if questions."""

    @property
    def served(self) -> PlanFields:
        """The served plan's values of all fields but `devices`."""

    @property
    def n_ctx_train(self) -> int | None:
        """The context length that the model was trained for, in tokens."""

    async def __call__(self, question: PlanFields) -> bytes:
        """The JSON of a PlanReply. Cancelling the task that waits ends the planning.

        Raises RequestError for devices that are unknown, or settings that contradict each other;
        RequestTimeout, EngineDied.
        """


@dataclass(frozen=True, slots=True)
class Ui:
    """The planner and the log of the dashboard. A `planner` of None: POST /plan is refused."""

    planner: WhatIfPlanner | None = None
    logs: LogRing = field(default_factory=LogRing)
