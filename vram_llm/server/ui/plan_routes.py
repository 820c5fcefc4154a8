"""POST /plan: the served model on other devices or with other settings. GET /plan: what may be asked."""

from typing import get_args

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm.errors import Overloaded
from vram_llm.machine import catalog
from vram_llm.server.api_keys import current_key
from vram_llm.server.errors import UnknownRoute
from vram_llm.server.generation import while_connected
from vram_llm.server.openapi import body_route, refusals
from vram_llm.server.read_body import read_fields
from vram_llm.server.ui.plan_fields import KvType, ObjectiveName, PlanFields, PlanOptionsReply
from vram_llm.server.ui.plan_reply import PlanReply
from vram_llm.server.ui.ports import WhatIfPlanner

MAX_CLIENTS = 8  # that wait for an answer
_AGAIN_S = 1.0
NO_PLANNER = "This server was started without a planner"


def plan_router(planner: WhatIfPlanner | None) -> APIRouter:
    """The routes of what-if questions. A client asks one at a time."""
    router, clients = APIRouter(tags=["dashboard"]), AskingClients()

    def present() -> WhatIfPlanner:
        if planner is None:
            raise UnknownRoute(NO_PLANNER)
        return planner

    @router.get("/plan", summary="What POST /plan accepts", responses=refusals(401, 403, 404))
    async def options() -> PlanOptionsReply:
        return plan_options_reply(present())

    @router.post("/plan", **body_route("Plan the served model for a what-if rig", PlanFields, PlanReply))
    async def plan(http: Request) -> Response:
        planner, fields = present(), await read_fields(PlanFields, http)
        return await clients.answer(http, planner, fields)

    return router


def plan_options_reply(planner: WhatIfPlanner) -> PlanOptionsReply:
    """The choices that a what-if plan offers."""
    return PlanOptionsReply(
        cards=[card.label for card in catalog.cards() if not card.shares_host_memory],
        kv_types=list(get_args(KvType)),
        objectives=list(get_args(ObjectiveName)),
        n_ctx_train=planner.n_ctx_train,
        served=planner.served,
    )


class AskingClients:
    """Lets each client ask one question at a time, and MAX_CLIENTS at once."""

    def __init__(self) -> None:
        self._asking: set[str] = set()

    async def answer(self, http: Request, planner: WhatIfPlanner, fields: PlanFields) -> Response:
        """The planner's answer to a client. Raises Overloaded, and the planner's errors."""
        client, asking = current_key.get().name, self._asking
        if client in asking:
            raise Overloaded("This client's last question is being answered; ask one at a time", _AGAIN_S)
        if len(asking) >= MAX_CLIENTS:
            raise Overloaded(f"{MAX_CLIENTS} clients wait for plans and that is the most", _AGAIN_S)
        asking.add(client)
        try:
            answer = await while_connected(http.receive, planner(fields))
        finally:
            asking.discard(client)
        if answer is None:
            return Response(status_code=499)  # the client is gone
        return Response(answer, media_type="application/json")
