"""One load of a model: its plans for the memory that is free now, and its engine."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from vram_llm.fleet.engines import MakeEngine
from vram_llm.fleet.load_plans import LoadPlans
from vram_llm.fleet.residency import Phase
from vram_llm.fleet.tenant import Tenant
from vram_llm.planner.types import HOST, Plan


class Loader:
    """Loads models of `tenants`. `on_state` is called whenever the state or detail of an engine changes."""

    def __init__(
        self,
        tenants: Mapping[str, Tenant],
        make_engine: MakeEngine,
        load_plans: LoadPlans,
        on_state: Callable[[Tenant], None],
    ) -> None:
        self._tenants = tenants
        self._make_engine = make_engine
        self._load_plans = load_plans
        self._on_state = on_state
        self._device_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def load(self, tenant: Tenant) -> None:
        """Load a model. Raises the error of its engine, and DoesNotFit. Its engine is to be ended then."""
        async with contextlib.AsyncExitStack() as stack:
            for device_id in sorted(tenant.packed.uses.keys() - {HOST}):  # its free bytes are one load's
                await stack.enter_async_context(self._device_locks[device_id])
            tenant.began_at = time.monotonic()
            tenant.take(await self._load_plans.packed_now(tenant.packed, self._plans_beside(tenant)))
            tenant.engine = self._make_engine(tenant.plans, tenant.name, lambda _: self._on_state(tenant))
            tenant.engine.start()
            tenant.info = await tenant.engine.ready()

    def _plans_beside(self, tenant: Tenant) -> tuple[Plan, ...]:
        """The plans of the other models that hold memory."""
        return tuple(
            plan
            for other in self._tenants.values()
            if other is not tenant and other.phase not in (Phase.ABSENT, Phase.STOPPING)
            for plan in other.plans
        )
