"""POST /plan of a fleet: a model on other devices or with other settings. GET /plan: what may be asked."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from vram_llm.fleet.snapshots import ModelState
from vram_llm.machine.host import read_host
from vram_llm.machine.types import Machine
from vram_llm.planner.fleet.room import machine_within, without
from vram_llm.planner.fleet.types import FleetPlan, PackedModel
from vram_llm.planner.make_plan import planned_device
from vram_llm.planner.types import HOST, Plan
from vram_llm.server.api_keys import current_key
from vram_llm.server.errors import UnknownRoute
from vram_llm.server.fleet.ports import ServedFleet
from vram_llm.server.fleet.route_kinds import RouteKind
from vram_llm.server.fleet.routed_models import RoutedModels
from vram_llm.server.openapi import body_route, refusals
from vram_llm.server.read_body import read_fields
from vram_llm.server.ui.plan_fields import PlanFields, PlanOptionsReply
from vram_llm.server.ui.plan_reply import PlanReply
from vram_llm.server.ui.plan_routes import NO_PLANNER, AskingClients, plan_options_reply
from vram_llm.server.ui.ports import WhatIfPlanner

AskAbout = Callable[[Plan, tuple[str, ...]], WhatIfPlanner]
"""Answers questions about a plan; the notes are added to those of the answers."""

_HOLDING = frozenset({ModelState.LOADING, ModelState.RESIDENT, ModelState.UNLOADING})


class FleetPlanFields(PlanFields):
    """POST /plan of a fleet: PlanFields, with the name of the model; without it, the first one.

    Without `devices`, the model is planned for this machine, in the memory that the other models leave that
    are loaded now; with them, alone on that rig.
    """

    model: str | None = None


def fleet_plan_router(fleet: ServedFleet, models: RoutedModels, about: AskAbout | None) -> APIRouter:
    """The routes of what-if questions. A client asks one at a time."""
    router, clients = APIRouter(tags=["dashboard"]), AskingClients()

    def planner_of(asked: str, *, is_alone: bool) -> WhatIfPlanner:
        if about is None:
            raise UnknownRoute(NO_PLANNER)
        key = current_key.get()
        model = models.find(asked, RouteKind.ANY, key)
        plan = models.settings.plan
        if not plan.budgets:  # of a cluster: each node has its own
            return about(model.plan, (f"{model.name} alone",))
        if is_alone:
            return about(plan_beside(plan, plan[model.name], ()), (f"{model.name} alone",))
        holding = {
            each.name: each.bytes_by_device
            for each in fleet.snapshots()
            if each.state in _HOLDING and each.name != model.name
        }
        others = f"beside {', '.join(holding)}" if holding else "with no other model loaded"
        return about(plan_beside(plan, plan[model.name], holding.values()), (f"{model.name} {others}",))

    @router.get("/plan", summary="What POST /plan accepts", responses=refusals(401, 403, 404))
    async def options(model: Annotated[str, Query()] = "") -> PlanOptionsReply:
        return plan_options_reply(planner_of(model, is_alone=False))

    @router.post("/plan", **body_route("Plan a model for a what-if rig", FleetPlanFields, PlanReply))
    async def plan(http: Request) -> Response:
        asked = await read_fields(FleetPlanFields, http)
        planner = planner_of(asked.model or "", is_alone=asked.devices is not None)
        return await clients.answer(http, planner, asked)

    return router


def plan_beside(plan: FleetPlan, model: PackedModel, uses: Iterable[Mapping[str, int]]) -> Plan:
    """A model's plan with all devices that it may use, in the memory that `uses` of others leave."""
    first, reserve_bytes = model.replicas[0].plan, model.spec.workload.reserve_bytes
    ids = model.spec.devices or tuple(device.id for device in plan.devices)
    host = first.host or read_host()
    whole = Machine(
        devices=plan.devices, host=replace(host, available_bytes=plan.budgets[HOST] + reserve_bytes)
    )
    machine = machine_within(whole, ids, without(plan.budgets, uses, plan.one_program), reserve_bytes)
    devices = tuple(planned_device(device, reserve_bytes) for device in machine.devices)
    return replace(first, devices=devices, host=machine.host)
