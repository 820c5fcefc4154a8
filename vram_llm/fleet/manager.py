"""The models of a fleet at run time: loads, unloads and lends out their engines."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager

from vram_llm.engine.engine_protocol import Engine
from vram_llm.fleet.engines import FleetEngine, MakeEngine
from vram_llm.fleet.snapshots import FleetEvent, FleetModel
from vram_llm.planner.fleet.types import FleetPlan
from vram_llm.planner.types import Plan

FreeBytes = Callable[[], Mapping[str, int]]
"""Bytes that are free now by device id and "host". Called in a thread before each load."""

FleetReplan = Callable[[str, tuple[Plan, ...]], tuple[Plan, ...]]
"""Plans of a model's replicas for the machine as it is now, beside the residents' plans. Called in a thread.

Raises DoesNotFit with the missing bytes.
"""


class Fleet:
    """The engines of a plan's models. Use from one event loop.

    `make_engine` makes the engine of one replica. `replan` makes smaller plans if `free_bytes` shows that
    other programs have taken memory; without it such a load is refused. `on_change` is called whenever a
    model's state or detail change.
    """

    def __init__(
        self,
        plan: FleetPlan,
        *,
        make_engine: MakeEngine,
        replan: FleetReplan | None = None,
        free_bytes: FreeBytes | None = None,
        on_change: Callable[[FleetModel], None] = lambda _: None,
    ) -> None:
        self.plan = plan
        raise NotImplementedError

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to load the models that are resident at the start. Returns before they are loaded."""
        raise NotImplementedError

    async def ready(self) -> None:
        """Wait until the models of the start are loaded. Raises the error of the first load that fails."""
        raise NotImplementedError

    async def drain(self, grace_s: float) -> None:
        """Refuse new leases; give those that are held `grace_s` to end, then end their requests."""
        raise NotImplementedError

    async def stop(self) -> None:
        """End all engines and wait until they are gone."""
        raise NotImplementedError

    async def apply(self, plan: FleetPlan) -> None:
        """Go on with another plan. Engines of models that are the same in both stay as they are.

        Models that are gone, and those with another plan, are unloaded once their leases have ended; the
        latter are loaded again if they were resident.
        """
        raise NotImplementedError

    # -- requests --------------------------------------------------------------------------------

    def name_of(self, model: str) -> str:
        """The name of the model with this name or alias. Raises UnknownModel."""
        raise NotImplementedError

    def lease(self, model: str) -> AbstractAsyncContextManager[Engine]:
        """A model's engine, which is READY at the beginning and not unloaded within the block.

        A model that is not resident is loaded. Raises UnknownModel, Overloaded if the wait would be too
        long, and the error of a load that fails (EngineDied, DoesNotFit and ModelRefused among them).
        """
        raise NotImplementedError

    # -- orders of the operator ------------------------------------------------------------------

    async def load(self, model: str) -> None:
        """Load a model as a request would, and wait for it. Raises as `lease` does."""
        raise NotImplementedError

    async def unload(self, model: str) -> None:
        """Unload a model once its leases have ended, and wait for that. A request loads it again.

        Raises UnknownModel.
        """
        raise NotImplementedError

    async def sleep(self, model: str | None = None) -> None:
        """Unload a model, or all, for another program's sake. Only a request loads them again.

        Raises UnknownModel.
        """
        raise NotImplementedError

    # -- facts -----------------------------------------------------------------------------------

    def snapshot(self, model: str) -> FleetModel:
        """A model as it is now. Raises UnknownModel."""
        raise NotImplementedError

    def snapshots(self) -> tuple[FleetModel, ...]:
        """All models, in the plan's order."""
        raise NotImplementedError

    def engine(self, model: str) -> FleetEngine | None:
        """The engine of a model that is resident, loading or unloading, without a lease.

        For facts alone, as metrics need them. Raises UnknownModel.
        """
        raise NotImplementedError

    def events(self) -> AsyncIterator[FleetEvent]:
        """Changes from now on, until `stop`. A reader who is 1024 changes behind loses the oldest."""
        raise NotImplementedError
