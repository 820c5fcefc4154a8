"""POST /plan and GET /plan of a fleet, over a fake one; test_real_fleet.py has the real planner."""

from dataclasses import dataclass

import httpx

from tests.server.fleet.fake_fleet import FleetUnderTest
from tests.server.live import in_process
from vram_llm.fleet.snapshots import ModelState
from vram_llm.planner.types import Plan
from vram_llm.server.ui.plan_fields import PlanFields
from vram_llm.server.ui.ports import WhatIfPlanner
from vram_llm.units import GIB

FREE = 24 * GIB  # of a card without a model
LEFT = 21 * GIB  # of a card with one model of 4 GiB, with the reserve


@dataclass
class Question:
    """The plan that a question is about, which the test reads. Its answer is the notes."""

    plan: Plan
    notes: tuple[str, ...]
    n_ctx_train: int | None = 8192

    @property
    def served(self) -> PlanFields:
        return PlanFields(n_ctx=self.plan.context.n_ctx)

    async def __call__(self, question: PlanFields) -> bytes:
        return b"{}"


class Asked:
    """Notes the questions."""

    def __init__(self) -> None:
        self.questions: list[Question] = []

    def about(self, plan: Plan, notes: tuple[str, ...]) -> WhatIfPlanner:
        self.questions.append(Question(plan, notes))
        return self.questions[-1]

    def last(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """The notes of the last question, and the free bytes of its devices."""
        question = self.questions[-1]
        return question.notes, {device.id: device.free_bytes for device in question.plan.devices}


async def test_a_model_is_planned_beside_those_that_are_loaded() -> None:
    asked = Asked()
    served = FleetUnderTest(about=asked.about)
    served.fleet.states["coder"] = ModelState.UNLOADED
    async with in_process(served.app) as client:
        assert (await client.post("/plan", json={"model": "chat", "n_ctx": 512})).status_code == 200
        assert asked.last() == (("chat beside embedder",), {"GPU0": FREE, "GPU1": LEFT})
        await client.post("/plan", json={"model": "coder"})
        free = {"GPU0": LEFT, "GPU1": LEFT}
        assert asked.last() == (("coder beside chat, embedder",), free)
        await client.post("/plan", json={"model": "coder", "devices": ["RTX 3090"]})
        assert asked.last() == (("coder alone",), {"GPU0": FREE, "GPU1": FREE})
        await client.post("/plan", json={})
        assert asked.last()[0] == ("chat beside embedder",)
        assert (await client.get("/plan?model=coder")).json()["served"]["n_ctx"] == 8192
        unknown = await client.post("/plan", json={"model": "nobody"})
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "model")


async def test_without_a_planner(client: httpx.AsyncClient) -> None:
    assert (await client.post("/plan", json={})).status_code == 404
