"""The built-in model behind /v1/messages and /v1/responses, asked as Claude Code and Codex ask."""

import re
from typing import Any

import httpx
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import running
from tests.server.live import app_of, in_process
from vram_llm import demo

pytestmark = pytest.mark.process

ASKED = "What is a KV cache?"
USER = {"role": "user", "content": ASKED}
EMPTY = {"type": "object", "properties": {}}
INNER = {"type": "function", "name": "f", "parameters": EMPTY}
SPACE = {"type": "namespace", "name": "agents", "description": "d", "tools": [INNER]}
SEARCH = {"type": "web_search", "external_web_access": False}
LARK = 'start: "*** " WORD "\\n"\nWORD: /[ab]{3}/'
PATCH = {
    "type": "custom",
    "name": "patch",
    "format": {"type": "grammar", "syntax": "lark", "definition": LARK},
}
CODE = {**PATCH, "format": {"type": "grammar", "syntax": "regex", "definition": "[xyz]{4}"}}
FORM = {"type": "json_schema", "schema": {**EMPTY, "additionalProperties": False}}
KEEP_ALL = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
MESSAGES: tuple[dict[str, Any], ...] = (
    {"messages": [USER, {"role": "system", "content": "A reminder."}]},
    {"messages": [USER], "context_management": KEEP_ALL},
    {"messages": [USER], "output_config": {"effort": "high"}, "thinking": {"type": "adaptive"}},
    {"messages": [USER], "thinking": {"type": "enabled", "budget_tokens": 0}},
    {"messages": [USER], "output_config": {"format": FORM}},
    {"messages": [USER, {"role": "assistant", "content": "A KV"}]},
    {"messages": [USER], "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    {"messages": [USER], "tools": [{"name": f"t{i}", "input_schema": EMPTY} for i in range(150)]},
)
RESPONSES: tuple[dict[str, Any], ...] = (
    {"tools": [SPACE]},
    {"tools": [SEARCH]},
    {"client_metadata": {"session_id": "s"}},
    {"reasoning": {"effort": "medium", "summary": "auto"}, "include": ["reasoning.encrypted_content"]},
    {"tools": [PATCH, SPACE, SEARCH], "text": {"verbosity": "low"}, "truncation": "auto"},
    {"top_logprobs": 2},
)


async def test_bodies_of_clients(plan_on_cpu: PlanOnCpu) -> None:
    plan = plan_on_cpu(demo.path(), n_ctx=8192, parallel=1)
    async with running(plan, "demo") as engine, in_process(app_of(engine)) as client:
        for body in MESSAGES:
            asked = {"model": "claude-x", "max_tokens": 16, **body}
            reply = await client.post("/v1/messages", json=asked)
            assert reply.status_code == 200, (body, reply.text)
            counted = await client.post("/v1/messages/count_tokens", json=asked)
            assert counted.json()["input_tokens"] > 1
        for body in RESPONSES:
            asked = {"model": "gpt-x", "input": ASKED, "max_output_tokens": 16, **body}
            reply = await client.post("/v1/responses", json=asked)
            assert reply.status_code == 200, (body, reply.text)
        await _forced(client)


async def _forced(client: httpx.AsyncClient) -> None:
    """Forced calls match the grammars of their tools, whatever the model prefers."""
    for tool, pattern in ((PATCH, r"\*\*\* [ab]{3}\n"), (CODE, "[xyz]{4}")):
        asked = {"input": ASKED, "tools": [tool, SPACE], "tool_choice": {"type": "custom", "name": "patch"}}
        (item,) = (await client.post("/v1/responses", json=asked)).json()["output"]
        assert item["type"] == "custom_tool_call"
        assert re.fullmatch(pattern, item["input"])
    asked = {"input": ASKED, "tools": [SPACE], "tool_choice": {"type": "function", "name": "f"}}
    (item,) = (await client.post("/v1/responses", json=asked)).json()["output"]
    assert (item["name"], item["namespace"], item["arguments"]) == ("f", "agents", "{}")
    bad = {**PATCH, "format": {"type": "grammar", "syntax": "lark", "definition": "start: ("}}
    refused = await client.post(
        "/v1/responses", json={"input": ASKED, "tools": [bad], "tool_choice": "required"}
    )
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools[0].format")
