"""Fields of blocks and of their parts: known ones pass, unknown ones are refused by name."""

from typing import Any

import httpx
import pytest

from tests.server.tool_chat import PARAMETERS

USER = {"role": "user", "content": "hi"}
TEXT = {"type": "text", "text": "hi"}
PLAIN = {"type": "text", "media_type": "text/plain", "data": "x"}
DOCUMENT = {"type": "document", "source": PLAIN}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
USE = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
MCP_USE = {"type": "mcp_tool_use", "id": "s", "name": "n", "server_name": "m", "input": {}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
TOOL = {"name": "f", "input_schema": PARAMETERS}
ADDED = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": TOOL}}
FORM = {"type": "json_schema", "schema": PARAMETERS}


def chat(role: str, *blocks: dict[str, Any]) -> dict[str, Any]:
    own = {"role": role, "content": list(blocks)}
    return {"messages": [own] if role == "user" else [USER, own, USER]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (chat("user", {**TEXT, "foo": 1}), "messages[0].content[0].foo"),
        (chat("user", {**DOCUMENT, "foo": 1}), "messages[0].content[0].foo"),
        (chat("user", {**DOCUMENT, "source": {**PLAIN, "foo": 1}}), "messages[0].content[0].source.foo"),
        (chat("user", {**DOCUMENT, "source": {"type": "content", "content": [{**TEXT, "foo": 1}]}}),
         "messages[0].content[0].source.content[0].foo"),
        (chat("user", {**DOCUMENT, "citations": {"enabled": False, "foo": 1}}),
         "messages[0].content[0].citations.foo"),
        (chat("user", {**IMAGE, "source": {**IMAGE["source"], "foo": 1}}),  # type: ignore[dict-item]
         "messages[0].content[0].source.foo"),
        (chat("assistant", {**USE, "foo": 1}, FOUND), "messages[1].content[0].foo"),
        (chat("assistant", {**MCP_USE, "foo": 1}, {**FOUND, "type": "mcp_tool_result"}),
         "messages[1].content[0].foo"),
        (chat("assistant", USE, {**FOUND, "foo": 1}), "messages[1].content[1].foo"),
        (chat("system", {**ADDED, "foo": 1}), "messages[1].content[0].foo"),
        (chat("system", {**ADDED, "tool": {**ADDED["tool"], "foo": 1}}),  # type: ignore[dict-item]
         "messages[1].content[0].tool.foo"),
        (chat("system", {**ADDED, "tool": {**ADDED["tool"], "definition": {**TOOL, "foo": 1}}}),  # type: ignore[dict-item]
         "messages[1].content[0].tool.definition.foo"),
        ({"messages": [USER], "output_config": {"format": {**FORM, "foo": 1}}}, "output_config.format.foo"),
    ],
)  # fmt: skip
async def test_an_unknown_field_is_refused_by_name(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/messages", json={"model": "claude", "max_tokens": 9, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["message"], error["param"]) == (f"Unrecognized request argument supplied: {param}", param)


@pytest.mark.parametrize(
    "fields",
    [
        chat("user", {**TEXT, "cache_control": {"type": "ephemeral"}, "citations": None, "foo": None}),
        chat("user", {**DOCUMENT, "title": "t", "context": None, "citations": {"enabled": False}}),
        chat("assistant", {**USE, "caller": {"type": "direct"}}, {**FOUND, "caller": {"type": "direct"}}),
        chat("assistant", MCP_USE, {**FOUND, "type": "mcp_tool_result", "is_error": False}),
        chat("system", {**ADDED, "cache_control": {"type": "ephemeral"}}),
        chat("system", ADDED, {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "f"}}),
    ],
)  # fmt: skip
async def test_a_known_field_passes(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    response = await client.post("/v1/messages", json={"model": "claude", "max_tokens": 9, **fields})
    assert response.status_code == 200, response.text
