"""Sentences about bodies that do not fit: plain English, with JSON's own words."""

import json
from typing import Any

import pytest

from vram_llm.errors import RequestError
from vram_llm.server.schemas import ChatCompletionRequest, parse

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ROLES = "'system', 'developer', 'user', 'assistant', 'tool' or 'function'"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"messages": []}, "'messages' is empty; send at least one entry"),
        ({"messages": "hi"}, "'messages' must be a list, got \"hi\""),
        ({"messages": [3]}, "'messages[0]' must be an object, got 3"),
        ({"messages": [{"role": None}]}, f"'messages[0].role' must be {ROLES}, got null"),
        ({"messages": [{"role": "pope"}]}, f"'messages[0].role' must be {ROLES}, got \"pope\""),
        ({"temperature": "1"}, "'temperature' must be a number, got \"1\""),
        ({"temperature": -1}, "'temperature' must be at least 0, got -1"),
        ({"temperature": float("nan")}, "'temperature' must be a finite number, got NaN"),
        ({"top_p": True}, "'top_p' must be a number, got true"),
        ({"n": 0}, "'n' must be at least 1, got 0"),
        ({"n": 1.5}, "'n' must be an integer, got 1.5"),
        ({"repeat_penalty": 0}, "'repeat_penalty' must be more than 0, got 0"),
        ({"stream": "yes"}, "'stream' must be true or false, got \"yes\""),
        ({"user": {"id": 1}}, "'user' must be a string, got {\"id\": 1}"),
        ({"tools": {}}, "'tools' must be a list, got {}"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]},
         "'tools[0].function.name' must match ^[a-zA-Z0-9_.-]+$, got \"a b\""),
        ({"tools": [{"type": "function", "function": {}}]},
         "Missing required parameter: 'tools[0].function.name'"),
        ({"stream_options": 3}, "'stream_options' must be an object, got 3"),
        ({"stop_token_ids": [1] * 17}, "'stop_token_ids' has 17 entries; 16 is the most"),
        ({"dry_sequence_breakers": [""]}, "'dry_sequence_breakers[0]' is empty"),
        ({"dry_sequence_breakers": ["x" * 50]}, "'dry_sequence_breakers[0]' is longer than 40 characters"),
        ({"logprobs": "x" * 80}, "'logprobs' must be true or false, got \"" + "x" * 56 + "..."),
    ],
)  # fmt: skip
def test_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(ChatCompletionRequest, json.dumps({**CHAT, **fields}).encode())
    assert str(caught.value) == sentence
