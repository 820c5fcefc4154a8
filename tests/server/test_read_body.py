"""Bodies: how many values and bytes they may have, one by one and all together."""

import gzip
import json
from typing import Any

import httpx
import pytest

from tests.server.conftest import Connect
from tests.server.fake_engine import FakeEngine
from vram_llm.errors import Overloaded
from vram_llm.server import read_body
from vram_llm.server.errors import BodyTooLarge
from vram_llm.server.read_body import BodyBudget, check_values

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    "text", ['a, [b], {c}, "d", \\ and \\" and \\\\', "\\" * 9 + '"' * 9, "", '"', "\\", '[,{"', '\\\\,,,"[[']
)
def test_values_of_texts_are_not_counted(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_body, "MAX_VALUES", 4)
    check_values(json.dumps([text, text, {text * 9: 1}]).encode())
    with pytest.raises(BodyTooLarge, match="more than 4 JSON values"):
        check_values(json.dumps([text, text, text, [text]]).encode())
    monkeypatch.setattr(read_body, "MAX_VALUES", 100)
    monkeypatch.setattr(read_body, "MAX_STRINGS", 2)
    check_values(json.dumps([text, text]).encode())
    with pytest.raises(BodyTooLarge, match="or 2 strings"):
        check_values(json.dumps([text, text, ""]).encode())


async def test_large_agents_pass(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    parameters = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(20)}}
    tools = [
        {"type": "function", "function": {"name": f"f{i}", "parameters": parameters}} for i in range(200)
    ]
    turn = [{"role": "user", "content": "question " * 9}, {"role": "assistant", "content": "answer, " * 9}]
    assert engine.info is not None
    body = {"messages": [*turn * 200, USER], "tools": tools}
    assert (await client.post(CHAT, json=body)).status_code == 200


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"messages": [USER] * 20_001}, "20,001 entries; 20,000 is the most"),
        ({"prompt": [1] * 1_000_001}, "more than 1,000,000 JSON values"),
        ({"stop": ["a" * 3000, "b" * 3000]}, "'stop' has 6,000 characters and 4,096 is the most"),
        ({"stop": ["a"] * 17}, "at most 16 strings"),
        ({"logit_bias": {str(i): 1 for i in range(5000)}}, "4,096 is the most"),
    ],
)
async def test_bounds(client: httpx.AsyncClient, more: dict[str, Any], sentence: str) -> None:
    answer = await client.post(CHAT, json={"messages": [USER], **more})
    assert answer.status_code in (400, 413)
    assert sentence in answer.json()["error"]["message"]


async def test_a_compressed_body_of_many_members(client: httpx.AsyncClient) -> None:
    body = b"".join(gzip.compress(part) for part in (b'{"messages":', json.dumps([USER]).encode(), b"}"))
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    assert (await client.post(CHAT, content=body, headers=headers)).status_code == 200
    empty = gzip.compress(b"") * 5000
    assert (await client.post(CHAT, content=empty + body, headers=headers)).status_code == 400


async def test_a_client_with_large_bodies_leaves_the_others_their_shares() -> None:
    budget = BodyBudget(100)
    with budget.body("large") as large, budget.body("other") as other, budget.body("third") as third:
        large.add(100)
        with pytest.raises(Overloaded):
            large.add(1)
        other.add(50)  # half
        with pytest.raises(Overloaded, match="150 B together"):
            other.add(1)
        third.add(33)
    with budget.body("other") as other:
        other.add(100)


async def test_all_bodies_together(connect: Connect) -> None:
    client = connect(max_body_bytes=1000)
    for _ in range(20):  # each is given back
        assert (await client.post(CHAT, json={"messages": [USER]})).status_code == 200
    budget = BodyBudget(100)
    with budget.body() as one, budget.body() as other:
        one.add(60)
        with pytest.raises(Overloaded, match="60 B together and 100 B is the most"):
            other.add(60)
        one.release()
        other.add(60)
    with budget.body() as last:
        last.add(100)
