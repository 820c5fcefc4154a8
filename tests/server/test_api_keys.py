"""Keys of a file: scopes, models, reading again; over HTTP, before a fake engine."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import running
from tests.server.fake_engine import FakeEngine
from tests.server.live import http_client, listening
from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.model_info import EngineState
from vram_llm.errors import BadKeysFile
from vram_llm.server.api_keys import Keyring
from vram_llm.server.config import ServerConfig
from vram_llm.server.keys_file import KeyScope, add_key, id_of, read_keys, remove_key

HI = {"model": "", "messages": [{"role": "user", "content": "hi"}]}
INFERENCE = (KeyScope.INFERENCE,)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "keys.json"


@asynccontextmanager
async def clients_of(
    engine: Engine, path: Path, *keys: str, **options: Any
) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client for each key of one real server with the file at `path`."""
    async with AsyncExitStack() as stack:
        own = {"keys_file": path, "aliases": ("other",), **options}
        url = await stack.enter_async_context(listening(engine, **own))
        yield [
            await stack.enter_async_context(http_client(url, headers={"authorization": f"Bearer {key}"}))
            for key in keys
        ]


async def test_keys_of_a_file(engine: FakeEngine, path: Path) -> None:
    ann, bob = add_key(path, "ann", INFERENCE), add_key(path, "bob", INFERENCE)
    near = f"sk-{id_of(ann.encode())}-wrong"
    async with clients_of(engine, path, ann, bob, near, "none") as clients:
        for client, status in zip(clients, (200, 200, 401, 401), strict=True):
            for _ in range(2):  # the second time the key is known
                assert (await client.post("/v1/chat/completions", json=HI)).status_code == status


@pytest.mark.parametrize(
    ("scope", "statuses"),
    [(KeyScope.INFERENCE, (200, 403)), (KeyScope.METRICS, (403, 200)), (KeyScope.ADMIN, (200, 200))],
)
async def test_scopes(engine: FakeEngine, path: Path, scope: KeyScope, statuses: tuple[int, int]) -> None:
    async with clients_of(engine, path, add_key(path, "ann", (scope,))) as (client,):
        models, metrics = await client.get("/v1/models"), await client.get("/metrics")
    assert (models.status_code, metrics.status_code) == statuses
    refused = next((reply for reply in (models, metrics) if reply.status_code == 403), None)
    if refused is not None:
        assert refused.json()["error"]["code"] == "missing_scope"
        assert "'ann' lacks the scope" in refused.json()["error"]["message"]


async def test_models(engine: FakeEngine, path: Path) -> None:
    key = add_key(path, "ann", INFERENCE, ["other"])
    async with clients_of(engine, path, key) as (client,):
        assert [card["id"] for card in (await client.get("/v1/models")).json()["data"]] == ["other"]
        for name, status in (("other", 200), ("tiny", 403), ("", 403)):
            reply = await client.post("/v1/chat/completions", json={**HI, "model": name})
            assert reply.status_code == status, name
        assert (await client.get("/v1/models/other")).status_code == 200
        assert (await client.get("/v1/models/tiny")).status_code == 404


async def test_a_key_without_any_model_here(engine: FakeEngine, path: Path) -> None:
    key = add_key(path, "ann", INFERENCE, ["elsewhere"])
    async with clients_of(engine, path, key) as (client,):
        assert (await client.get("/v1/models")).json()["data"] == []
        anthropic = await client.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
        assert anthropic.json()["first_id"] is None


async def test_the_file_is_read_again(path: Path) -> None:
    ann = add_key(path, "ann", INFERENCE)
    keyring = Keyring(ServerConfig(keys_file=path, api_keys=("typed",)))
    assert (await keyring.find(b"typed")) is not None
    assert (await keyring.find(ann.encode())) is not None
    bob = add_key(path, "bob", INFERENCE)
    remove_key(path, "ann")
    assert (await keyring.find(bob.encode())) is None
    assert keyring.read() == 1
    found = await keyring.find(bob.encode())
    assert found is not None
    assert found.name == "bob"
    assert (await keyring.find(ann.encode())) is None
    path.write_text("{")
    with pytest.raises(BadKeysFile):
        keyring.read()
    assert (await keyring.find(bob.encode())) is found


async def test_responses_are_those_of_a_key(engine: FakeEngine, path: Path) -> None:
    ann, bob = add_key(path, "ann", INFERENCE), add_key(path, "bob", INFERENCE)
    async with clients_of(engine, path, ann, bob) as (of_ann, of_bob):
        kept = (await of_ann.post("/v1/responses", json={"input": "a"})).json()
        place, more = f"/v1/responses/{kept['id']}", {"input": "b", "previous_response_id": kept["id"]}
        item = {"type": "item_reference", "id": kept["output"][0]["id"]}
        told = [await of_bob.get(place), await of_bob.get("/v1/responses/resp_0")]
        assert [reply.status_code for reply in told] == [404, 404]
        assert str(told[0].json()["error"]).replace(kept["id"], "") == str(told[1].json()["error"]).replace(
            "resp_0", ""
        )
        assert (await of_bob.delete(place)).status_code == 404
        assert (await of_bob.post("/v1/responses", json=more)).status_code == 400
        assert (await of_bob.post("/v1/responses", json={"input": [item]})).status_code == 400
        assert (await of_ann.post("/v1/responses", json={"input": [item]})).status_code == 200
        assert (await of_ann.post("/v1/responses", json=more)).status_code == 200
        assert (await of_ann.delete(place)).status_code == 200


@pytest.mark.parametrize("shared", [False, True])
async def test_beginnings_of_prompts_are_those_of_a_key(engine: FakeEngine, path: Path, shared: bool) -> None:
    keys = [add_key(path, name, INFERENCE) for name in ("ann", "bob")]
    options = {"shared_prefix_cache": shared, "api_keys": ("typed",)}
    async with clients_of(engine, path, *keys, "typed", **options) as clients:
        for client in (*clients, *clients):
            await client.post("/v1/chat/completions", json=HI)
            await client.post("/v1/completions", json={"prompt": "x"})
            await client.post("/v1/responses", json={"input": "x"})
            await client.post("/v1/messages", json={**HI, "max_tokens": 5})
    namespaces = [request.namespace for request in engine.requests]
    assert len(namespaces) == 24
    of_keys = [set(namespaces[i : i + 4]) | set(namespaces[12 + i : 16 + i]) for i in (0, 4, 8)]
    assert [len(of_key) for of_key in of_keys] == [1, 1, 1]
    assert (len(set(namespaces)), set(namespaces) == {0}) == ((1, True) if shared else (3, False))


@pytest.mark.parametrize("state", [EngineState.LOADING, EngineState.STOPPING, EngineState.DEAD])
async def test_strangers_learn_whether_it_is_ready(
    engine: FakeEngine, path: Path, state: EngineState
) -> None:
    ann = add_key(path, "ann", INFERENCE)
    async with clients_of(engine, path, ann, "none") as (known, stranger):
        assert (await stranger.get("/health")).json() == {"status": "ok"}
        assert (await stranger.get("/")).json().keys() == {"name", "endpoints"}
        assert (await known.get("/")).json()["model"] == "tiny"
        engine.state, engine.detail = state, "loading, secret"
        for path_of_health in ("/health", "/v1/health/"):
            reply = await stranger.get(path_of_health)
            assert (reply.status_code, reply.json()["error"]["message"]) == (503, "Not ready")
        reply = await known.get("/health")
        assert reply.status_code == 503
        assert reply.json()["error"]["message"] != "Not ready"


async def test_everybody_is_a_stranger_to_an_open_server(engine: FakeEngine) -> None:
    engine.state, engine.detail = EngineState.DEAD, "secret"
    async with listening(engine, insecure=True) as url, http_client(url) as client:
        assert (await client.get("/health")).json()["error"]["message"] == "Not ready"


@pytest.mark.parametrize("stays", [True, False])
async def test_the_file_is_read_while_a_key_is_checked(path: Path, stays: bool) -> None:
    ann = add_key(path, "ann", INFERENCE)
    keyring = Keyring(ServerConfig(keys_file=path))
    found = asyncio.create_task(keyring.find(ann.encode()))
    await asyncio.sleep(0)  # its hash is computed in a thread from here on
    if not stays:
        remove_key(path, "ann")
    keyring.read()
    assert ((await found) is not None) is stays


def test_the_file(path: Path) -> None:
    key = add_key(path, "ann", INFERENCE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert key not in path.read_text()
    assert key.split("-", 2)[2] not in path.read_text()
    assert [*path.parent.iterdir()] == [path]
    (stored,) = read_keys(path).values()
    assert stored.matches(key.encode())
    assert not stored.matches(key.encode() + b"x")
    with pytest.raises(BadKeysFile, match="has a key 'ann'"):
        add_key(path, "ann", INFERENCE)
    with pytest.raises(BadKeysFile, match="is no name of a key"):
        add_key(path, "a\x1b[1m", INFERENCE)
    with pytest.raises(BadKeysFile, match="has no key 'bob'"):
        remove_key(path, "bob")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "keys": {}}',
        '{"version": 1, "keys": {"a\\n": {}}}',
        "\xff",
        " " * 2**21,
    ],
)
def test_files_of_other_things(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    with pytest.raises(BadKeysFile):
        read_keys(path)


def test_names_are_checked_when_read(path: Path) -> None:
    add_key(path, "ann", INFERENCE)
    file = json.loads(path.read_text())
    file["keys"] = {"a\x1b[1m": file["keys"]["ann"]}
    path.write_text(json.dumps(file))
    with pytest.raises(BadKeysFile, match="has other characters"):
        read_keys(path)


def test_a_fifo_is_no_file_of_keys(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    with pytest.raises(BadKeysFile, match="not a regular file"):
        read_keys(tmp_path / "keys")
    with pytest.raises(BadKeysFile, match="No such file"):
        read_keys(tmp_path / "nowhere")


@pytest.mark.process
async def test_two_keys_before_a_real_engine(plan_on_cpu: PlanOnCpu, path: Path) -> None:
    keys = [add_key(path, name, INFERENCE) for name in ("ann", "bob")]
    body = {"prompt": [*range(10, 310)], "max_tokens": 1}
    cached = []
    async with (
        running(plan_on_cpu(n_ctx=2048)) as engine,
        clients_of(engine, path, *keys) as (of_ann, of_bob),
    ):
        for client in (of_ann, of_bob, of_ann, of_bob):
            usage = (await client.post("/v1/completions", json=body)).json()["usage"]
            cached.append(usage["prompt_tokens_details"]["cached_tokens"])
    assert [n > 0 for n in cached] == [False, False, True, True]


async def test_log_lines_name_keys(engine: FakeEngine, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ann = add_key(path, "ann", INFERENCE)
    caplog.set_level("INFO")
    async with clients_of(engine, path, ann, "wrong-key") as clients:
        for client in clients:
            await client.post("/v1/chat/completions", json=HI, headers={"x-request-id": "r"})
        engine.script = lambda request: [RuntimeError("broken")]
        await clients[0].post("/v1/chat/completions", json=HI, headers={"x-request-id": "r"})
    records = [record for record in caplog.records if record.name.startswith("vram_llm")]
    lines = [(record.getMessage(), getattr(record, "fields", {}).get("client")) for record in records]
    place = "POST /v1/chat/completions"
    assert lines == [
        (f"{place} 200", "ann"),
        (f"{place} 401", "127.0.0.1"),
        (f"Request r ({place}) of ann failed", None),
        (f"{place} 500", "ann"),
    ]
    assert ann not in caplog.text
    assert "wrong-key" not in caplog.text
