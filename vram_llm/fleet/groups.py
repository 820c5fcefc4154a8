"""Which models of a fleet may be resident together."""

from collections.abc import Mapping

from vram_llm.fleet.tenant import Tenant
from vram_llm.planner.fleet.types import FleetPlan


class Groups:
    """The sets of a plan. Models that are loaded by another plan are counted by their bytes."""

    def __init__(self, plan: FleetPlan, tenants: Mapping[str, Tenant]) -> None:
        self._plan = plan
        self._tenants = tenants
        self._planned = {model.spec.name: model for model in plan.models}
        self._partners = {name: self._closure(name) - {name} for name in self._planned}

    def partners(self, name: str) -> frozenset[str]:
        """The other models that are loaded and unloaded with this one."""
        return self._partners.get(name, frozenset())

    def fits(self, names: frozenset[str]) -> bool:
        """Whether these models may be resident together."""
        if all(self._is_as_planned(name) for name in names):
            return any(names <= whole for whole in self._plan.sets)
        if any(len(names & group) > 1 for group in self._plan.apart):
            return False
        used: dict[str, int] = {}
        for name in names:
            for device_id, n_bytes in self._tenants[name].uses.items():
                used[device_id] = used.get(device_id, 0) + n_bytes
        return all(n_bytes <= self._plan.budgets.get(device_id, 0) for device_id, n_bytes in used.items())

    def _is_as_planned(self, name: str) -> bool:
        planned, tenant = self._planned.get(name), self._tenants[name]
        return planned is not None and tuple(way.plan for way in planned.ways) == tenant.plans

    def _closure(self, name: str) -> frozenset[str]:
        names = frozenset({name})
        while True:
            more = names.union(*(group for group in self._plan.together if group & names))
            if more == names:
                return names
            names = more
