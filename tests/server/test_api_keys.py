"""Keys of a file: scopes, models, reading again; over HTTP, before a fake engine."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.server.fake_engine import FakeEngine
from tests.server.live import http_client, listening
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
async def clients_of(engine: FakeEngine, path: Path, *keys: str) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client for each key of one real server with the file at `path`."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(listening(engine, keys_file=path, aliases=("other",)))
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
    [(KeyScope.INFERENCE, (200, 403)), (KeyScope.METRICS, (403, 404)), (KeyScope.ADMIN, (200, 404))],
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


def test_the_file(path: Path) -> None:
    key = add_key(path, "ann", INFERENCE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert key not in path.read_text()
    assert key.rpartition("-")[2] not in path.read_text()
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
