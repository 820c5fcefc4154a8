"""The dashboard's routes: the page, what-if plans, the end of requests, the log."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any, get_args

import httpx

from scripts.vendor_ui import check_copies
from tests.patience import until
from tests.server.conftest import Connect
from tests.server.fake_engine import FakeEngine
from vram_llm.errors import RequestError
from vram_llm.model.quants import KV_TYPES
from vram_llm.planner.types import Objective
from vram_llm.server.keys_file import KeyScope, add_key
from vram_llm.server.ui.log_ring import KEPT, LogRing
from vram_llm.server.ui.page import CONTENT_SECURITY_POLICY
from vram_llm.server.ui.plan_fields import KvType, ObjectiveName, PlanFields
from vram_llm.server.ui.ports import Ui
from vram_llm.text.repeat_filter import MOST_OF_A_KIND

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
ADMIN = {"authorization": "Bearer secret"}


class FakePlanner:
    """Answers with the question, once `may_answer` is set."""

    n_ctx_train = 4096

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.n_asked = self.n_cancelled = 0
        self.served = PlanFields(n_ctx=512)

    async def __call__(self, question: PlanFields) -> bytes:
        self.n_asked += 1
        if question.devices == ["none"]:
            raise RequestError("there is no such card")
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.n_cancelled += 1
            raise
        return question.model_dump_json().encode()


async def test_browsers_get_the_page_and_others_the_facts(client: httpx.AsyncClient) -> None:
    page, facts = await client.get("/", headers=BROWSER), await client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert facts.json()["name"] == "vram-llm"
    assert page.headers["vary"] == facts.headers["vary"] == "accept"
    again = await client.get("/", headers={**BROWSER, "if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_the_page_is_open_where_keys_are_needed(connect: Connect) -> None:
    client = connect(api_keys=("secret",))
    for path in ("/", "/ui/vendor/uplot.js"):
        assert (await client.get(path, headers=BROWSER)).status_code == 200
    for path in ("/ui/../app.py", "/ui/nothing.js", "/ui/", "/plan", "/logs"):
        assert (await client.get(path, headers=BROWSER)).status_code in (401, 404), path


def test_vendored_files_are_those_of_their_packages() -> None:
    check_copies()


# -- POST /plan ----------------------------------------------------------------------------------


def test_the_choices_are_the_planners() -> None:
    assert set(get_args(KvType)) == set(KV_TYPES)
    assert get_args(ObjectiveName) == tuple(objective.value for objective in Objective)


async def test_a_client_asks_one_question_at_a_time(connect: Connect) -> None:
    planner = FakePlanner()
    client = connect(ui=Ui(planner))
    first = asyncio.create_task(client.post("/plan", json={"n_ctx": 1024}))
    await until(lambda: planner.n_asked == 1, "the first question")
    second = await client.post("/plan", json={})
    assert (second.status_code, "retry-after" in second.headers) == (429, True)
    planner.may_answer.set()
    assert (await first).json()["n_ctx"] == 1024
    assert (await client.post("/plan", json={})).status_code == 200


async def test_bad_questions(connect: Connect) -> None:
    client = connect(ui=Ui(FakePlanner()))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"devices": ["none"]}, "there is no such card"),
        ({"devices": []}, "'devices' is empty"),
        ({"devices": ["RTX 4090"] * 17}, "16 is the most"),
        ({"kv_type": "q3"}, "'kv_type' must be"),
        ({"n_ctx": -1}, "'n_ctx' must be at least 0"),
        ({"model": "other.gguf"}, "Unrecognized request argument supplied: model"),
    ]
    for body, sentence in cases:
        reply = await client.post("/plan", json=body)
        assert reply.status_code == 400, body
        assert sentence in reply.json()["error"]["message"]


async def test_what_may_be_asked(client: httpx.AsyncClient, connect: Connect) -> None:
    options = (await connect(ui=Ui(FakePlanner())).get("/plan")).json()
    assert "NVIDIA GeForce RTX 3060 12GB" in options["cards"]
    assert (options["served"]["n_ctx"], options["n_ctx_train"]) == (512, 4096)
    assert (await client.get("/plan")).status_code == 404  # it has no planner


async def test_scopes(connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    user, admin = add_key(path, "ann", (KeyScope.INFERENCE,)), add_key(path, "root", (KeyScope.ADMIN,))
    client = connect(keys_file=path, ui=Ui(FakePlanner()))
    for key, status in ((user, 403), (admin, 200)):
        for route in ("/plan", "/logs"):
            reply = await client.get(route, headers={"authorization": f"Bearer {key}"})
            assert reply.status_code == status, (key, route)


# -- DELETE /requests/{id} -----------------------------------------------------------------------


async def test_cancel_asks_for_the_keys_own_requests(
    connect: Connect, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.in_flight = {"a-0"}
    path = tmp_path / "keys.json"
    user, admin = add_key(path, "ann", (KeyScope.INFERENCE,)), add_key(path, "root", (KeyScope.ADMIN,))
    client = connect(keys_file=path)
    for key in (user, admin):
        headers = {"authorization": f"Bearer {key}"}
        assert (await client.delete("/requests/a-0", headers=headers)).json() == {
            "id": "a-0",
            "cancelled": True,
        }
        missing = await client.delete("/requests/b", headers=headers)
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "request_not_found")
    assert engine.asked_to_cancel == [("a-0", "ann"), ("b", "ann"), ("a-0", None), ("b", None)]


# -- GET /logs -----------------------------------------------------------------------------------


async def test_the_last_lines(connect: Connect) -> None:
    ring, log = LogRing(), logging.getLogger("tests.ring")
    client = connect(ui=Ui(logs=ring))
    with ring.collecting():
        log.warning("a \x1b[31mred\n%s", "line")
        first = (await client.get("/logs")).json()
        assert [(line["level"], line["text"]) for line in first["lines"]] == [("warning", "a ?[31mred?line")]
        for i in range(KEPT + 5):
            log.error("%d", i)
    log.error("after its end")
    rest = (await client.get(f"/logs?after={first['last']}")).json()
    assert [line["text"] for line in rest["lines"]] == [str(i) for i in range(5, KEPT + 5)]
    assert (await client.get(f"/logs?after={rest['last']}")).json() == {"lines": [], "last": rest["last"]}
    assert (await client.get(f"/logs?after={rest['last'] + 1}")).json() == rest  # of an earlier server
    assert (await client.get("/logs?after=x")).status_code == 400


def test_lines_of_clients_do_not_fill_it() -> None:
    ring = LogRing()
    with ring.collecting():
        for i in range(KEPT):
            logging.getLogger("vram_llm.server.tests").warning("refused %d", i)
    assert len(ring.after(0).lines) == MOST_OF_A_KIND


async def test_an_open_server_shows_no_log(connect: Connect) -> None:
    reply = await connect(insecure=True).get("/logs")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "missing_scope")


def test_tracebacks() -> None:
    ring = LogRing()
    with ring.collecting():
        try:
            json.loads("{")
        except ValueError:
            logging.getLogger("tests.ring").exception("failed")
    (line,) = ring.after(0).lines
    assert line.text.startswith("failed\nTraceback")
    assert "JSONDecodeError" in line.text
