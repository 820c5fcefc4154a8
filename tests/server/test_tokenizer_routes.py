"""POST /tokenize, /detokenize and /apply-template."""

from typing import Any

import httpx
import pytest

from tests.server.fake_engine import FakeEngine
from tests.server.tool_chat import TALKER, TOOLS


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"content": "AB"}, [65, 66]),
        ({"content": "A", "add_special": True}, [1, 65]),
        ({"content": "<s>A"}, [1, 65]),
        ({"content": "<s>", "parse_special": False}, [60, 115, 62]),
        (
            {"content": ["A", 66, "<s>C"], "add_special": True},
            [1, 65, 66, 1, 67],
        ),
        ({"content": [66, "A"], "add_special": True}, [66, 65]),
        ({"content": ["<s>"], "parse_special": False}, [60, 115, 62]),
        ({"content": [65, 66]}, [65, 66]),
        ({"content": []}, []),
        ({"content": [65, "B"], "with_pieces": True}, [{"id": 65, "piece": "A"}, {"id": 66, "piece": "B"}]),
        (
            {"content": "Aé", "with_pieces": True},
            [{"id": 65, "piece": "A"}, {"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}],
        ),
    ],
)
async def test_tokenize(client: httpx.AsyncClient, fields: dict[str, Any], tokens: list[Any]) -> None:
    assert (await client.post("/tokenize", json=fields)).json() == {"tokens": tokens}


async def test_detokenize(client: httpx.AsyncClient) -> None:
    assert (await client.post("/detokenize", json={"tokens": [1, 72, 33]})).json() == {
        "content": "<s>H!",
        "prompt": "<s>H!",
    }


async def test_vllms_forms(client: httpx.AsyncClient) -> None:
    reply = await client.post("/tokenize", json={"prompt": "A", "add_special_tokens": False})
    assert reply.json() == {"tokens": [65], "count": 1, "max_model_len": 512}
    reply = await client.post("/tokenize", json={"model": "tiny", "prompt": "A"})
    assert reply.json()["tokens"] == [1, 65]
    assert (await client.get("/tokenizer_info")).json() == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": None,
    }


async def test_apply_template(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = TALKER
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": TOOLS}
    reply = await client.post("/apply-template", json=body)
    assert reply.json() == {"prompt": "get_weather [user]hi"}
    assert engine.requests == []


async def test_tokens_of_a_chat(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    """As many as /tokenize finds in the prompt, which begins with <s>."""
    engine.info = TALKER
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": TOOLS}
    for path in ("/chat/completions/input_tokens", "/v1/chat/completions/input_tokens"):
        reply = await client.post(path, json=body)
        n_tokens = 1 + len("get_weather [user]hi")
        assert reply.json() == {"object": "response.input_tokens", "input_tokens": n_tokens}
    assert engine.requests == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 3}, "content"),
        ("/tokenize", {"content": ["A", [66]]}, "content"),
        ("/tokenize", {"content": [True]}, "content"),
        ("/tokenize", {"content": [65, 100]}, "content"),
        ("/tokenize", {"content": ["x"] * 257}, "content"),
        ("/tokenize", {"prompt": ["A"]}, "prompt"),
        ("/tokenize", {"content": "x" * (2**20 + 1)}, "content"),
        ("/tokenize", {"content": "", "mood": 1}, "mood"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {"tokens": [1, 100]}, "tokens[1]"),
        ("/apply-template", {"messages": []}, "messages"),
    ],
)
async def test_refused(client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
