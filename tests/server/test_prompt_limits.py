"""Prompts that cannot fit are refused before a template or a tokenizer works on them."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.server.fake_engine import INFO, FakeEngine

_USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/v1/chat/completions", {"messages": [_USER] * 513}, "513 messages of at least one token each"),
        ("/v1/chat/completions/input_tokens", {"messages": [_USER] * 513}, "513 messages"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a" * 2049}]},
            "'messages' has 2,049 characters and the context's 512 tokens hold 2,048 bytes at most",
        ),
        ("/v1/completions", {"prompt": [1] * 513}, "'prompt' has 513 token ids"),
        ("/v1/completions", {"prompt": [[1], [1] * 513]}, "'prompt' has 513 token ids"),
        ("/v1/completions", {"prompt": "a" * 2049}, "The prompt has 2,049 characters"),
    ],
)
async def test_what_cannot_fit_is_refused(
    client: httpx.AsyncClient, engine: FakeEngine, path: str, body: dict[str, Any], sentence: str
) -> None:
    engine.info = replace(INFO, max_prompt_bytes=2048)
    answer = await client.post(path, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert sentence in error["message"]
    assert not engine.requests


async def test_what_may_fit_goes_to_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = replace(INFO, max_prompt_bytes=2048)
    for body in ({"messages": [_USER] * 40}, {"messages": [{"role": "user", "content": "a" * 1900}]}):
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200


async def test_large_schemas_of_tools_are_refused(client: httpx.AsyncClient) -> None:
    parameters = {"type": "object", "properties": {"a": {"enum": ["a" * 600_000, "b" * 600_000]}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = {"messages": [_USER], "tools": [tool], "tool_choice": "required"}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "1,048,576 is the most" in answer.json()["error"]["message"]
