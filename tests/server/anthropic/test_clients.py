"""Bodies as clients send them to POST /v1/messages, and the prompts that the model sees.

Field names are those of Claude Code 2.1.197, anthropic 2.13 and @ai-sdk/anthropic 3.0.140. Past 400 lines
because every kind of body is sent to the one route and read in the same way.
"""

import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.server.fake_engine import FakeEngine, says
from tests.server.tool_chat import FUNCTION, PARAMETERS, PIECES, TALKER
from vram_llm.errors import ContextExceeded

pytestmark = pytest.mark.process  # computes for many seconds

USER = {"role": "user", "content": "hi"}
BODY: dict[str, Any] = {"model": "claude", "max_tokens": 9, "messages": [USER]}
TOOL = {"name": FUNCTION["name"], "description": "Weather", "input_schema": PARAMETERS}
CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
SEARCH = {"type": "web_search_20260209", "name": "web_search", "max_uses": 3, "allowed_domains": ["a.b"]}
TOOLS_OF_OTHERS = (
    SEARCH,
    {"type": "code_execution_20260120", "name": "code_execution"},
    {"type": "bash_20250124", "name": "bash"},
    {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 100},
    {"type": "computer_20251124", "name": "computer", "display_width_px": 1, "display_height_px": 1},
    {"type": "computer_toolset_20260801", "configs": {"zoom": {"enabled": False}}},
    {"type": "memory_20250818", "name": "memory"},
    {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"},
    {"type": "mcp_toolset", "mcp_server_name": "s"},
)


def edits(*edits: dict[str, Any]) -> dict[str, Any]:
    return {"context_management": {"edits": list(edits)}}


def message_of(role: str, *blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


async def ask(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/messages?beta=true", json={**BODY, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        edits({"type": "clear_thinking_20251015", "keep": "all"}),
        edits({"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 1}}),
        edits({"type": "clear_tool_uses_20250919", "trigger": {"type": "tool_uses", "value": 1}}),
        edits({"type": "compact_20260112"}),  # from 150,000 tokens on
        edits({"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 150_000.0}}),
        edits(),
        {"context_management": None},
        *({"output_config": {"effort": effort}} for effort in ("low", "high", "max", None)),
        {"output_config": {"task_budget": {"type": "tokens", "total": 20_000}}},
        {"thinking": {"type": "adaptive", "display": "updates"}},
        {"thinking": {"type": "between_tools"}},
        {"thinking": {"type": "enabled", "budget_tokens": 1024, "block_binding": None}},
        {"thinking": {"type": "disabled", **CACHED}, "output_config": CACHED, "context_management": CACHED},
        {"thinking": None},
        {"service_tier": "standard_only", "inference_geo": "us", "speed": "fast", "betas": ["a-2025-01-01"]},
        {"metadata": {"user_id": "u", "session": 3}, "diagnostics": {"previous_message_id": None}},
        {"container": "c", "mcp_servers": [], "fallbacks": "default", "safeguards": []},
        {"anthropic_version": "vertex-2023-10-16", "anthropic_beta": ["a"]},
        {"stop_sequences": [" ", "\n\n"], "top_k": 5, "cache_control": {"type": "ephemeral"}},
        {"tools": [{**TOOL, "name": f"t{i}"} for i in range(200)]},
        {"tools": [TOOL, TOOL]},
        {
            "tools": [
                {
                    **TOOL,
                    **CACHED,
                    "type": "custom",
                    "strict": False,
                    "defer_loading": True,
                    "allowed_callers": ["direct", "code_execution_20260120"],
                    "input_examples": [{"city": "Rome"}],
                    "eager_input_streaming": True,
                }
            ],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
        },
        {"messages": [message_of("user", text("hi", citations=None, **CACHED))]},
    ],
)
async def test_neutral_values_are_accepted(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any]
) -> None:
    response = await ask(client, **fields)
    assert response.status_code == 200, response.text
    assert "cache_control" not in str(engine.requests[0].prompt)
    count = {name: value for name, value in {**BODY, **fields}.items() if name != "max_tokens"}
    assert (await client.post("/v1/messages/count_tokens", json=count)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (edits({"type": "forget_all"}), "context_management.edits[0].type"),
        *(
            (edits({"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": value}}), param)
            for value, param in [
                (100, "context_management.edits[0]"),
                (1.0, "context_management.edits[0]"),
                (1.5, "context_management.edits[0].trigger.value"),
                ("9", "context_management.edits[0].trigger.value"),
            ]
        ),
        ({"context_management": {"mood": 1}}, "context_management.mood"),
        ({"output_config": {"effort": "most"}}, "output_config.effort"),
        ({"output_config": {"verbosity": "low"}}, "output_config.verbosity"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {}, "color": 1}}},
            "output_config.format.color",
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "mood": 1}}, "thinking.mood"),
        ({"tool_choice": {"type": "auto", "mood": 1}}, "tool_choice.mood"),
        ({"tools": [{**TOOL, "mood": 1}]}, "tools[0].mood"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f", "type": "function"}]}, "tools[0].type"),
        ({"tools": [TOOL, {**TOOL, "description": "Another"}]}, "tools"),
        ({"tools": [SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}}, "tool_choice"),
        ({"tools": [SEARCH], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"mcp_servers": [{"type": "url", "url": "x", "name": "y"}]}, "mcp_servers"),
        ({"container": {"skills": [{"type": "anthropic", "skill_id": "pptx"}]}}, "container.skills"),
        ({"messages": [{**USER, "mood": 1}]}, "messages[0].mood"),
        ({"messages": [message_of("user", text("hi", mood=1))]}, "messages[0].content[0].mood"),
        ({"messages": [message_of("user", {"type": "container_upload"})]}, "messages[0].content[0].type"),
        ({"messages": [message_of("system", {"type": "image"})]}, "messages[0].content[0].type"),
    ],
)
async def test_fields_that_change_the_answer_are_refused_by_name(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    response = await ask(client, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert response.json()["error"]["message"].count("\n") == 0


PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}


@pytest.mark.parametrize(
    ("source", "way_out"),
    [
        (PDF, "application/pdf"),
        ({"type": "url", "url": "https://a/b.pdf"}, "downloads nothing"),
        ({"type": "file", "file_id": "f"}, "no files are kept"),
        ({"type": "base64", "media_type": "text/plain", "data": "?"}, "not UTF-8 text"),
    ],
)
async def test_documents_that_are_not_read(
    client: httpx.AsyncClient, source: dict[str, Any], way_out: str
) -> None:
    response = await ask(client, messages=[message_of("user", {"type": "document", "source": source})])
    assert response.status_code == 400
    assert way_out in response.json()["error"]["message"]


async def test_citations_are_refused(client: httpx.AsyncClient) -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "x"}
    block = {"type": "document", "source": source, "citations": {"enabled": True}}
    response = await ask(client, messages=[message_of("user", block)])
    assert response.json()["error"]["param"] == "messages[0].content[0].citations"


CALL = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "c"}
SEARCHED = (
    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
    {
        "type": "web_search_tool_result",
        "tool_use_id": "s",
        "content": [{"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "zzz"}],
    },
    text("It is so.", citations=[{"type": "web_search_result_location", "url": "u"}]),
)


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([USER, {"role": "system", "content": "Be brief."}], "[user]hi[system]Be brief."),
        ([message_of("user", text(""), text("a"), text("b"))], "[user]a\nb"),
        (
            [message_of("user", text("a")), message_of("assistant"), message_of("user", text("b"))],
            "[user]a[assistant][user]b",
        ),
        (
            [{"role": "system", "content": "Once.", "clear_at": "next_user_message"}, USER],
            "[user]hi",
        ),
        (
            [USER, {"role": "system", "content": "Now.", "clear_at": "next_user_message"}],
            "[user]hi[system]Now.",
        ),
        (
            [
                message_of(
                    "user", {"type": "document", "title": "T", "source": {"type": "text", "data": "words"}}
                )
            ],
            '[user]<document title="T">\nwords\n</document>',
        ),
        (
            [
                message_of(
                    "user",
                    {
                        "type": "document",
                        "context": "C",
                        "source": {"type": "content", "content": [text("w")]},
                    },
                )
            ],
            "[user]<document>\nC\n\nw\n</document>",
        ),
        (
            [
                message_of(
                    "user",
                    {
                        "type": "document",
                        "source": {
                            "type": "base64",
                            "media_type": "text/plain",
                            "data": base64.b64encode(b"plain").decode(),
                        },
                    },
                )
            ],
            "[user]<document>\nplain\n</document>",
        ),
        (
            [
                message_of(
                    "user", {"type": "search_result", "source": "s", "title": "t", "content": [text("w")]}
                )
            ],
            '[user]<search_result title="t" source="s">\nw\n</search_result>',
        ),
        (
            [
                USER,
                message_of("assistant", {**CALL, "caller": {"type": "direct"}}),
                message_of("user", {**RESULT, "content": [{"type": "tool_reference", "tool_name": "g"}]}),
            ],
            '[user]hi[assistant]c {"a": 1}[tool]Tool found: g',
        ),
        (
            [USER, message_of("assistant", CALL), message_of("user", {**RESULT, "is_error": True})],
            '[user]hi[assistant]c {"a": 1}[tool]error',
        ),
        (
            [USER, message_of("assistant", *SEARCHED), USER],
            '[user]hi[assistant]s {"query": "q"}'
            '[tool][{"type": "web_search_result", "url": "u", "title": "t"}][assistant]It is so.[user]hi',
        ),
        (
            [
                USER,
                message_of(
                    "assistant", {"type": "redacted_thinking", "data": "x"}, {"type": "fallback"}, text("a")
                ),
                USER,
            ],
            "[user]hi[assistant]a[user]hi",
        ),
        (
            [USER, message_of("assistant", {"type": "compaction", "content": "In short."}), USER],
            "[assistant]In short.[user]hi",
        ),
        (
            [
                USER,
                {
                    **message_of("assistant", text("a")),
                    "id": "m",
                    "type": "message",
                    "stop_reason": "end_turn",
                },
                USER,
            ],
            "[user]hi[assistant]a[user]hi",
        ),
    ],
)
async def test_the_prompt(
    client: httpx.AsyncClient, engine: FakeEngine, messages: list[dict[str, Any]], prompt: str
) -> None:
    response = await ask(client, messages=messages)
    assert response.status_code == 200, response.text
    assert engine.requests[0].prompt == prompt


async def test_the_billing_line_of_claude_code_is_left_out(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    system = [
        text("x-anthropic-billing-header: cc_version=2.1; cch=3f1;"),
        text("Be kind.", **CACHED),
        text(""),
    ]
    await ask(client, system=system)
    assert engine.requests[0].prompt == "[system]Be kind.[user]hi"


@pytest.mark.parametrize("tool", TOOLS_OF_OTHERS)
async def test_tools_that_are_not_run_here_are_left_out(
    client: httpx.AsyncClient, engine: FakeEngine, tool: dict[str, Any]
) -> None:
    reply = (await ask(client, tools=[TOOL, tool])).json()
    assert len(reply["warnings"]) == 1
    assert engine.requests[0].prompt == "get_weather [user]hi"


async def test_tools_declared_in_the_middle_of_a_chat(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    def change(kind: str, tool: dict[str, Any]) -> dict[str, Any]:
        return message_of("system", {"type": kind, "tool": tool})

    removal = change("tool_removal", {"type": "tool_reference", "name": "get_weather"})
    addition = change("tool_addition", {"type": "tool_reference", "name": "get_weather"})
    defined = {"name": "other", "input_schema": {"type": "object"}}
    definition = change("tool_addition", {"type": "tool_definition", "definition": defined})
    again = change("tool_addition", {"type": "tool_definition", "definition": TOOL})
    for messages, prompt in (
        ([USER, removal], "[user]hi"),
        ([USER, removal, addition], "get_weather [user]hi"),
        ([USER, definition], "get_weather other [user]hi"),
        ([USER, definition, definition], "get_weather other [user]hi"),
        ([USER, again], "get_weather [user]hi"),
    ):
        assert (await ask(client, messages=messages, tools=[TOOL])).status_code == 200
        assert engine.requests[-1].prompt == prompt
    broken = change("tool_addition", {"type": "tool_definition", "definition": {"name": 3}})
    response = await ask(client, messages=[USER, broken])
    assert response.json()["error"]["param"] == "messages[1].content[0].tool.definition"


@pytest.mark.parametrize("budget", [0, 5])
async def test_a_budget_of_thinking(client: httpx.AsyncClient, engine: FakeEngine, budget: int) -> None:
    await ask(client, thinking={"type": "enabled", "budget_tokens": budget})
    request = engine.requests[0]
    assert str(request.prompt).startswith("[user]hi" if budget else "[user]hiFalse")
    assert request.reasoning_budget is not None
    assert request.reasoning_budget.n_tokens == budget


async def test_effort_for_a_model_without_efforts(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = replace(TALKER, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    for fields in (
        {"output_config": {"effort": "high"}},
        {"thinking": {"type": "enabled", "budget_tokens": 9}},
    ):
        assert (await ask(client, **fields)).status_code == 200
        assert engine.requests[-1].prompt == "hi"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (
            {"output_config": {"format": {"type": "json_schema", "schema": PARAMETERS}}},
            "output_config.format",
        ),
        ({"output_format": {"type": "json_schema", "schema": PARAMETERS}}, "output_format"),
    ],
)
async def test_a_form_for_the_answer(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], field: str
) -> None:
    assert (await ask(client, **fields)).status_code == 200
    grammar = engine.requests[0].grammar
    assert grammar is not None
    assert (grammar.field, grammar.lenient) == (field, False)
    both = await ask(client, **fields, response_format={"type": "json_object"})
    assert both.json()["error"]["param"] == "response_format"


async def test_the_answer_continues_the_last_message(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = (await ask(client, messages=[USER, {"role": "assistant", "content": "Hel"}])).json()
    assert str(engine.requests[0].prompt).endswith("Hel")
    assert reply["content"][0]["text"] == "Hello world"
    response = await ask(client, messages=[USER, message_of("assistant", CALL)])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")


async def test_a_prompt_that_is_too_long(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    for error, expected in (
        (ContextExceeded("It does not fit", n_prompt_tokens=900, n_ctx=512), "900 tokens > 512 maximum. It"),
        (ContextExceeded("It does not fit"), "It does not fit"),
    ):
        engine.script = lambda _, error=error: [error]  # type: ignore[misc]  # bound now
        response = await ask(client)
        assert response.status_code == 400
        assert response.json()["error"]["message"].startswith(f"prompt is too long: {expected}")


async def test_hidden_thinking_comes_back(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    thinking = {"type": "adaptive", "display": "omitted"}
    content = (await ask(client, tools=[TOOL], thinking=thinking)).json()["content"]
    assert content[0]["thinking"] == ""
    results = [{"type": "tool_result", "tool_use_id": block["id"], "content": "sun"} for block in content[2:]]
    await ask(
        client, messages=[USER, message_of("assistant", *content), message_of("user", *results)], tools=[TOOL]
    )
    assert "[assistant]I should look.One moment." in str(engine.requests[-1].prompt)
    stream = (await ask(client, tools=[TOOL], thinking=thinking, stream=True)).text
    assert "thinking_delta" not in stream
    assert "signature_delta" in stream
    for unreadable in ("held.?", "held.////", "from elsewhere", None):
        block = {"type": "thinking", "thinking": "", "signature": unreadable}
        assert (await ask(client, messages=[USER, message_of("assistant", block), USER])).status_code == 200


NULLS = ("stop_sequence", "stop_details", "container")  # as Anthropic has them


def nulls(value: Any, name: str = "") -> Iterator[str]:
    if value is None:
        yield name
    for key, own in value.items() if isinstance(value, dict) else ():
        yield from nulls(own, key)
    for own in value if isinstance(value, list) else ():
        yield from nulls(own, name)


async def test_no_null_for_a_key_that_anthropic_lacks(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    reply = (await ask(client, tools=[TOOL], **edits())).json()
    assert set(nulls(reply)) == set(NULLS)
    assert reply["context_management"] == {"applied_edits": []}
    assert "warnings" not in reply


async def test_the_count_has_the_tokens_before_clearing(client: httpx.AsyncClient) -> None:
    body = {"messages": [USER], **edits({"type": "clear_thinking_20251015", "keep": "all"})}
    counted = (await client.post("/v1/messages/count_tokens", json=body)).json()
    assert counted["context_management"] == {"original_input_tokens": counted["input_tokens"]}
