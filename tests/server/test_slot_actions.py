"""POST /slots/N?action=: bodies, names of files, keys and refusals before a fake engine; a real restart."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.patience import soon
from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.fleet.fake_fleet import THREE, FleetUnderTest
from tests.server.live import http_client, in_process, listening, serving
from vram_llm.engine.slot_order import SlotAction, SlotDone, SlotOrder
from vram_llm.model.pooling import Pooling
from vram_llm.server.keys_file import KeyScope, add_key

HI: Any = [{"role": "user", "content": "hi"}]
BAD_NAMES = (
    "", ".", "..", "a..b", "/etc/passwd", "a/b", "a\\b", "../a", "a:b", "a*", "a?", 'a"', "a<b", "a|b",
    "a\x00b", "a\nb", "\x85", " a", "a ", "a.", "a\uff0e", "\ufeffa", "x" * 256, "\u00e9" * 128,
)  # fmt: skip


@pytest.fixture
def saving(connect: Connect, tmp_path: Path) -> httpx.AsyncClient:
    return connect(slot_save_path=tmp_path)


def asked(engine: FakeEngine) -> SlotOrder:
    return engine.orders[-1]


async def test_replies_have_llama_servers_fields(
    saving: httpx.AsyncClient, engine: FakeEngine, tmp_path: Path
) -> None:
    file = {"filename": "chat 1.bin"}
    saved = (await saving.post("/slots/2?action=save", json=file)).json()
    assert saved == {
        "id_slot": 2, "filename": "chat 1.bin", "n_saved": 2, "n_written": 10, "timings": {"save_ms": 500.0},
    }  # fmt: skip
    expected = SlotOrder(
        id=asked(engine).id, action=SlotAction.SAVE, slot=2, path=str(tmp_path / "chat 1.bin")
    )
    assert asked(engine) == expected
    restored = (await saving.post("/slots/3?action=restore", json=file)).json()
    assert restored == {
        "id_slot": 3, "filename": "chat 1.bin", "n_restored": 3, "n_read": 10,
        "timings": {"restore_ms": 500.0},
    }  # fmt: skip
    for body in (b"", b"{}", b'{"model": "tiny"}'):
        erased = await saving.post("/slots/1?action=erase", content=body)
        assert erased.json() == {"id_slot": 1, "n_erased": 1}
    assert asked(engine).path == ""


async def test_without_a_folder(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    for action in SlotAction:
        refused = await client.post(f"/slots/0?action={action}", json={"filename": "a"})
        assert refused.status_code == 400
        assert "start it with --slot-save-path FOLDER" in refused.json()["error"]["message"]
    assert engine.orders == []


async def test_an_order_is_cancelled_with_its_client(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def waits(_: SlotOrder) -> SlotDone:
        begun.set()
        try:
            return await asyncio.Future()
        finally:
            cancelled.set()

    monkeypatch.setattr(engine, "order_slot", waits)
    async with listening(engine, slot_save_path=tmp_path) as url, http_client(url) as client:
        asking = asyncio.create_task(client.post("/slots/0?action=save", json={"filename": "a"}))
        await soon(begun.wait())
        asking.cancel()
        await soon(cancelled.wait())


@pytest.mark.parametrize(
    ("address", "body", "param"),
    [
        ("/slots/4?action=save", {"filename": "a"}, "id_slot"),
        ("/slots/-1?action=save", {"filename": "a"}, "id_slot"),
        ("/slots/one?action=save", {"filename": "a"}, "id_slot"),
        ("/slots/99999999999?action=save", {"filename": "a"}, "id_slot"),
        ("/slots/0?action=delete", {"filename": "a"}, "action"),
        ("/slots/0", {"filename": "a"}, "action"),
        ("/slots/0?action=save", {}, "filename"),
        ("/slots/0?action=restore", {"filename": None}, "filename"),
        ("/slots/0?action=save", {"filename": 7}, "filename"),
        ("/slots/0?action=save", {"filename": "a", "file": "b"}, "file"),
        *[("/slots/0?action=save", {"filename": name}, "filename") for name in BAD_NAMES],
    ],
)
async def test_refusals(
    saving: httpx.AsyncClient, engine: FakeEngine, address: str, body: dict[str, Any], param: str
) -> None:
    refused = await saving.post(address, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    assert engine.orders == []


async def test_names_that_are_taken(saving: httpx.AsyncClient, engine: FakeEngine) -> None:
    for name in ("a", "slot_1.bin", ".hidden", "\u00e9 \u4e2d.bin", "x" * 255):
        assert (await saving.post("/slots/0?action=save", json={"filename": name})).status_code == 200
        assert Path(asked(engine).path).name == name


async def test_a_refusal_of_the_engine(saving: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.slot_error = "slot 0 is empty"
    refused = await saving.post("/slots/0?action=save", json={"filename": "a"})
    assert refused.status_code == 400
    assert refused.json()["error"] == {
        "message": "slot 0 is empty", "type": "invalid_request_error", "param": "id_slot",
        "code": "invalid_value",
    }  # fmt: skip


async def test_a_model_that_embeds_has_no_slots(saving: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = replace(INFO, pooling=Pooling.MEAN)
    assert (await saving.post("/slots/0?action=erase")).json()["error"]["code"] == "model_not_supported"


async def test_keys_have_files_and_slots_of_their_own(
    connect: Connect, engine: FakeEngine, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    ann, reader = add_key(keys, "ann", (KeyScope.INFERENCE,)), add_key(keys, "r", (KeyScope.METRICS,))
    client = connect(slot_save_path=tmp_path, keys_file=keys)

    async def save(key: str) -> int:
        bearer = {"authorization": f"Bearer {key}"}
        body = {"filename": "a"}
        return (await client.post("/slots/0?action=save", json=body, headers=bearer)).status_code

    assert await save(ann) == 200
    assert asked(engine).owner == "ann"
    assert asked(engine).namespace > 0
    assert await save(reader) == 403
    client = connect(slot_save_path=tmp_path, keys_file=keys, shared_prefix_cache=True)
    assert await save(ann) == 200
    assert (asked(engine).owner, asked(engine).namespace) == ("", 0)


async def test_requests_ask_for_slots(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    for asked_for, given in ((2, 2), (-1, None), (None, None)):
        body = {"messages": HI, "n": 2, "id_slot": asked_for}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        assert [request.id_slot for request in engine.requests[-2:]] == [given, None]
    body = {"prompt": ["a", "b"], "n": 2, "id_slot": 1}
    assert (await client.post("/v1/completions", json=body)).status_code == 200
    assert [request.id_slot for request in engine.requests[-4:]] == [1, None, 1, None]
    refused = await client.post("/v1/chat/completions", json={"messages": HI, "id_slot": 4})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "id_slot")


async def test_idle_slots_show_the_tokens_that_they_hold(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.slots = (0, 300, 0, 0)
    slots = (await client.get("/slots")).json()
    assert [slot.get("n_prompt_tokens") for slot in slots] == [None, 300, None, None]


async def test_a_model_among_several(tmp_path: Path) -> None:
    served = FleetUnderTest(THREE, slot_save_path=tmp_path)
    async with in_process(served.app) as client:
        saved = await client.post("/slots/0?action=save", json={"filename": "a", "model": "coder"})
        assert saved.status_code == 200
        assert (await client.post("/slots/1?action=erase&model=coder")).status_code == 200
        assert (await client.post("/slots/1?action=erase")).status_code == 200
        refused = await client.post("/slots/0?action=erase", json={"model": "embedder"})
        assert refused.json()["error"]["code"] == "model_not_supported"
    orders = {name: [order.slot for order in engine.orders] for name, engine in served.fleet.engines.items()}
    assert orders == {"chat": [1], "coder": [0, 1], "embedder": []}


# -- a real server -------------------------------------------------------------------------------

_PROMPT = "Once upon a time there was a small boat on a wide river. " * 12


def _answer(url: str, **more: Any) -> dict[str, Any]:
    body = {"prompt": _PROMPT, "temperature": 0, "max_tokens": 16, "ignore_eos": True, **more}
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=600)
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]  # of httpx


@pytest.mark.process
def test_a_slot_outlives_the_server(tmp_path: Path, tiny_model: Path) -> None:
    options = ("demo", "--slot-save-path", tmp_path)
    with serving(*options) as server:
        server.await_health()
        first = _answer(server.url, id_slot=1)
        cached = first["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0)
        saved = httpx.post(f"{server.url}/slots/1?action=save", json={"filename": "boat.bin"}).json()
        n = first["usage"]["prompt_tokens"]
        assert (cached, saved["n_saved"]) == (0, n + 15), saved
        assert saved["n_written"] == (tmp_path / "boat.bin").stat().st_size
        slots = httpx.get(f"{server.url}/slots").json()
        assert [slot.get("n_prompt_tokens") for slot in slots] == [None, n + 15, None, None]
    with serving(*options) as server:
        server.await_health()
        restored = httpx.post(f"{server.url}/slots/0?action=restore", json={"filename": "boat.bin"}).json()
        assert (restored["n_restored"], restored["n_read"]) == (saved["n_saved"], saved["n_written"])
        again = _answer(server.url, id_slot=0)
        assert again["choices"][0]["text"] == first["choices"][0]["text"]
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == n - 1
    with serving(tiny_model, "--slot-save-path", tmp_path, "--n-ctx", "2048") as server:
        server.await_health()
        refused = httpx.post(f"{server.url}/slots/0?action=restore", json={"filename": "boat.bin"})
        assert refused.status_code == 400
        assert "and this server has tiny.gguf" in refused.json()["error"]["message"]
