"""Bodies as clients send them to POST /v1/responses, and the prompts that the model sees.

Field names are those of Codex CLI 0.171.0, openai 3.57 and @ai-sdk/openai 3.0.141.
"""

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.server.fake_engine import FakeEngine, Step, says
from tests.server.responses.test_routes import TOOL, events
from tests.server.tool_chat import FUNCTION, PARAMETERS, PIECES, TALKER
from vram_llm.engine.request import GrammarKind, Likelihood, Request, TokenCandidate, TokenEvent
from vram_llm.server.responses.tools import ResponseTool, sort_tools

INNER = {"type": "function", "name": "f", "description": "d", "strict": False, "parameters": PARAMETERS}
SPACE = {"type": "namespace", "name": "agents", "description": "Helpers.", "tools": [INNER]}
PATCH = {"type": "custom", "name": "patch", "description": "Edit.", "format": {"type": "text"}}
LARK = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"+'}
OTHERS = (
    {"type": "web_search", "external_web_access": False, "search_content_types": ["text"]},
    {"type": "web_search_preview_2025_03_11"},
    {"type": "local_shell"},
    {"type": "shell", "environment": {"type": "local"}},
    {"type": "apply_patch"},
    {"type": "mcp", "server_label": "s", "server_url": "https://a", "require_approval": "never"},
    {"type": "file_search", "vector_store_ids": ["v"]},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "image_generation", "quality": "low"},
    {"type": "computer_use_preview", "display_width": 1, "display_height": 1, "environment": "linux"},
    {"type": "tool_search", "execution": "client", "parameters": {"type": "object"}},
)
USER = {"type": "message", "id": "msg_1", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}


async def ask(client: httpx.AsyncClient, given: Any = "hi", **fields: Any) -> httpx.Response:
    return await client.post("/v1/responses", json={"model": "gpt", "input": given, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"client_metadata": {"session_id": "s"}, "prompt_cache_key": "k", "prompt_cache_retention": "24h"},
        {"prompt_cache_options": {"mode": "implicit"}, "safety_identifier": "s", "user": "u", "store": False},
        {"include": ["reasoning.encrypted_content", "file_search_call.results"]},
        {"include": ["web_search_call.action.sources", "code_interpreter_call.outputs"]},
        {"truncation": "auto", "service_tier": "priority", "background": False, "conversation": None},
        {"text": {"verbosity": "low"}},
        {"text": {"format": {"type": "text"}, "verbosity": "high"}},
        {"stream_options": {"include_obfuscation": False}, "stream": True},
        {"max_tool_calls": 3, "top_logprobs": 0, "metadata": {"a": "b"}, "moderation": None, "prompt": None},
        {"reasoning": {"summary": "auto"}},
        {"reasoning": {"effort": "max", "context": "all_turns", "mode": "standard"}},
        {"reasoning": {"effort": None, "generate_summary": None}},
        {"context_management": [{"type": "compaction", "compact_threshold": 200_000}]},
        {"tools": [{**TOOL, "async": False, "defer_loading": True, "allowed_callers": ["direct"]}]},
        {"tools": [TOOL, TOOL], "parallel_tool_calls": True},
        {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": {"type": "auto"}},
        {"max_output_tokens": 9.0, "max_tool_calls": 2.0},
        {"max_output_tokens": -1},
        {"tools": [{**TOOL, "name": f"t{i}"} for i in range(200)]},
        {"tools": [{"type": "function", "name": "f", "parameters": None, "strict": None}]},
    ],
)
async def test_neutral_values_are_accepted(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    response = await ask(client, **fields)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"effort": "most"}}, "reasoning.effort"),
        ({"reasoning": {"mood": 1}}, "reasoning.mood"),
        ({"text": {"mood": 1}}, "text.mood"),
        ({"text": {"format": {"type": "text", "mood": 1}}}, "text.format.mood"),
        ({"tools": [{**TOOL, "mood": 1}]}, "tools[0].mood"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "tools": []}]}, "tools[0].name"),
        ({"tools": [{**SPACE, "tools": [{"type": "mcp"}]}]}, "tools[0].tools[0].type"),
        ({"tools": [{**SPACE, "tools": [{**INNER, "mood": 1}]}]}, "tools[0].tools[0].mood"),
        ({"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "abnf"}}]}, "tools[0].format"),
        ({"tools": [OTHERS[0]], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [OTHERS[0]], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp", "server_label": "s"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"context_management": [{"type": "compaction", "compact_threshold": 9}]}, "context_management[0]"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"input": [{"type": "crystal_ball"}]}, "input[0].type"),
        ({"input": [{**USER, "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "additional_tools", "tools": [{"name": "f"}]}]}, "input[0].tools"),
        ({"input": [{"type": "tool_search_output", "call_id": "c", "tools": 5}]}, "input[0].tools"),
        (
            {
                "input": [
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": 5}
                ]
            },
            "input[0].namespace",
        ),
    ],
)
async def test_fields_that_change_the_answer_are_refused_by_name(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    response = await ask(client, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("tool", OTHERS)
async def test_tools_that_are_not_run_here_are_left_out(
    client: httpx.AsyncClient, engine: FakeEngine, tool: dict[str, Any]
) -> None:
    allowed = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": tool["type"]}, {"type": "function", "name": TOOL["name"]}],
    }
    for choice in ("auto", allowed):
        reply = (await ask(client, tools=[TOOL, tool], tool_choice=choice)).json()
        assert len(reply["warnings"]) == 1
        assert [own["type"] for own in reply["tools"]] == ["function"]
        assert engine.requests[-1].prompt == "get_weather [user]hi"


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}', "status": "completed"}
OUTPUT = {"type": "function_call_output", "call_id": "c"}
PROMPT = '[user]hi[assistant]c {"a": 1}'


@pytest.mark.parametrize(
    ("items", "prompt"),
    [
        ([CALL, {**OUTPUT, "output": [{"type": "input_text", "text": "x"}]}], PROMPT + "[tool]x"),
        ([CALL, {**OUTPUT, "output": None}], PROMPT + "[tool]"),
        ([CALL, {**OUTPUT, "output": {"content": "x", "success": True}}], PROMPT + "[tool]x"),
        (
            [
                {"type": "custom_tool_call", "id": "ctc", "call_id": "c", "name": "patch", "input": 'a"b'},
                {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
            ],
            '[user]hi[assistant]c {"input": "a\\"b"}[tool]done',
        ),
        (
            [
                {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
                {"type": "local_shell_call_output", "id": "c", "output": "x"},
            ],
            '[user]hi[assistant]c {"type": "exec", "command": ["ls"]}[tool]x',
        ),
        (
            [
                {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
                {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "x"}]},
            ],
            '[user]hi[assistant]c {"commands": ["ls"]}[tool][{"stdout": "x"}]',
        ),
        (
            [{"type": "mcp_call", "id": "m", "name": "f", "arguments": "{}", "output": "x"}],
            "[user]hi[assistant]m {}[tool]x",
        ),
        (
            [{"type": "file_search_call", "id": "s", "queries": ["q"], "results": [{"text": "x"}]}],
            '[user]hi[assistant]s {"queries": ["q"]}[tool]{"results": [{"text": "x"}]}',
        ),
        (
            [
                {"type": "tool_search_call", "call_id": "c", "arguments": {"query": "q"}},
                {"type": "tool_search_output", "call_id": "c", "tools": []},
            ],
            '[user]hi[assistant]c {"query": "q"}[tool]Tools found: none',
        ),
        ([{"type": "web_search_call", "id": "w", "action": {"type": "search"}}], "[user]hi"),
        ([{"type": "compaction", "encrypted_content": "zzz"}], "[user]hi"),
        ([{"type": "ghost_snapshot"}, {"type": "mcp_list_tools"}], "[user]hi"),
        ([{"type": "configuration_update", "reasoning": {"effort": "none"}}], "[user]hi"),
        (
            [
                {
                    "type": "agent_message",
                    "author": "/root/a",
                    "content": [{"type": "input_text", "text": "x"}, {"type": "encrypted_content"}],
                }
            ],
            "[user]hi[user][message author=/root/a]\nx",
        ),
        (
            [{"type": "reasoning", "id": "rs", "summary": [], "content": None, "encrypted_content": "gAAA"}],
            "[user]hi",
        ),
        (
            [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
                {
                    "type": "message",
                    "id": "msg",
                    "role": "assistant",
                    "status": "completed",
                    "phase": "final_answer",
                    "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}],
                },
            ],
            "[user]hi[assistant]Hm.a",
        ),
        ([{"role": "developer", "content": "Be brief."}], "[user]hi[system]Be brief."),
        ([{"role": "assistant", "content": None}, USER], "[user]hi[assistant][user]hi"),
    ],
)
async def test_the_prompt(
    client: httpx.AsyncClient, engine: FakeEngine, items: list[dict[str, Any]], prompt: str
) -> None:
    response = await ask(client, [USER, *items])
    assert response.status_code == 200, response.text
    shown = str(engine.requests[0].prompt)
    assert shown.removesuffix("False") == prompt
    assert ("warnings" in response.json()) == any(item.get("type") == "compaction" for item in items)


def calls(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


async def test_functions_of_a_namespace(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(calls("agents__f", "{}"))
    reply = (await ask(client, tools=[SPACE, TOOL])).json()
    assert str(engine.requests[0].prompt).startswith("agents__f get_weather ")
    (item,) = reply["output"]
    assert (item["type"], item["namespace"], item["name"]) == ("function_call", "agents", "f")
    assert reply["tools"][0]["tools"][0]["name"] == "f"
    await ask(client, [USER, item, {**OUTPUT, "call_id": item["call_id"], "output": "x"}], tools=[SPACE])
    assert str(engine.requests[-1].prompt).endswith("{}[tool]x")


def test_the_first_function_of_a_namespace_has_its_description() -> None:
    tools = [{**SPACE, "tools": [INNER, {**INNER, "name": "g"}]}, {**INNER, "name": "h"}]
    offers = sort_tools([ResponseTool.model_validate(tool) for tool in tools]).offers
    assert [offer.description for offer in offers] == ["d\n\nagents: Helpers.", "d", "d"]


@pytest.mark.parametrize("more", [{}, {"namespace": "agents"}])
async def test_a_function_of_a_namespace_can_be_forced(
    client: httpx.AsyncClient, engine: FakeEngine, more: dict[str, Any]
) -> None:
    engine.script = says('{"name": "agents__f", "arguments": {}}')
    choice = {"type": "function", "name": "f", **more}
    (item,) = (await ask(client, tools=[SPACE, TOOL], tool_choice=choice)).json()["output"]
    assert (item["namespace"], item["name"]) == ("agents", "f")


async def test_tools_that_items_declare(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    functions = {**SPACE, "name": "functions", "tools": [PATCH]}
    brought = {"type": "additional_tools", "id": "at", "role": "developer", "tools": [functions, SPACE]}
    engine.script = says(calls("patch", '{"input": "x"}'))
    reply = (await ask(client, [brought, USER])).json()
    assert engine.requests[0].prompt == "patch agents__f [user]hi"
    assert reply["output"][0]["type"] == "custom_tool_call"
    await ask(client, "more", previous_response_id=reply["id"])
    assert str(engine.requests[-1].prompt).startswith("patch agents__f ")


async def test_a_custom_tool(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    arguments = json.dumps({"input": 'a\n"b" \u00e9'})
    engine.script = says(*calls("patch", arguments))
    (item,) = (await ask(client, tools=[PATCH])).json()["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", 'a\n"b" \u00e9')
    received = events(await ask(client, tools=[PATCH], stream=True))
    deltas = [e["delta"] for e in received if e["type"] == "response.custom_tool_call_input.delta"]
    assert len(deltas) > 3
    assert "".join(deltas) == item["input"]
    (done,) = (e for e in received if e["type"] == "response.custom_tool_call_input.done")
    assert done["input"] == item["input"]
    assert not any("function_call_arguments" in e["type"] for e in received)


@pytest.mark.parametrize("choice", ["required", {"type": "custom", "name": "patch"}])
async def test_the_grammar_of_a_custom_tool_that_must_be_called(
    client: httpx.AsyncClient, engine: FakeEngine, choice: Any
) -> None:
    engine.script = says("a", 'a"')
    tool = {**PATCH, "format": LARK}
    (item,) = (await ask(client, tools=[tool], tool_choice=choice)).json()["output"]
    assert (item["type"], item["input"]) == ("custom_tool_call", 'aa"')
    grammar = engine.requests[0].grammar
    assert grammar is not None
    assert (grammar.kind, grammar.text, grammar.field) == (GrammarKind.GBNF, 'start: "a"+', "tools[0].format")


async def test_thinking_is_passed_back_unread(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    plain = (await ask(client, tools=[TOOL])).json()["output"][0]
    assert "encrypted_content" not in plain
    include = ["reasoning.encrypted_content"]
    reasoning = (await ask(client, tools=[TOOL], include=include)).json()["output"][0]
    without = {name: value for name, value in reasoning.items() if name != "content"}  # as Codex sends it
    await ask(client, [USER, {**without, "content": None}, {"role": "assistant", "content": "a"}, USER])
    assert engine.requests[-1].prompt == "[user]hi[assistant]I should look.a[user]hi"


async def test_a_summary_is_the_thinking(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    received = events(await ask(client, reasoning={"summary": "auto"}, tools=[TOOL], stream=True))
    deltas = [e["delta"] for e in received if e["type"] == "response.reasoning_summary_text.delta"]
    assert "".join(deltas) == "I should look."
    assert not any("reasoning_text" in e["type"] for e in received)
    item = received[-1]["response"]["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "I should look."}]
    assert item["content"] == []
    await ask(client, [USER, item, {"role": "assistant", "content": "a"}, USER])
    assert engine.requests[-1].prompt == "[user]hi[assistant]I should look.a[user]hi"


async def test_items_are_referred_to(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    first = (await ask(client, tools=[TOOL])).json()
    references = [{"type": "item_reference", "id": item["id"]} for item in first["output"][:2]]
    await ask(client, [USER, *references, {"id": first["output"][2]["id"]}, {**OUTPUT, "output": "x"}])
    call = first["output"][2]["call_id"]
    assert engine.requests[-1].prompt == (
        f'[user]hi[assistant]I should look.One moment.{call} {{"city": "Paris"}}[tool]x'
    )
    await client.delete(f"/v1/responses/{first['id']}")
    assert (await ask(client, references)).json()["error"]["param"] == "input[0].id"


@pytest.mark.parametrize("fields", [{"top_logprobs": 1}, {"include": ["message.output_text.logprobs"]}])
async def test_logprobs(client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any]) -> None:
    def script(request: Request) -> list[Step]:
        likely = Likelihood(TokenCandidate(1, b"Hi", -0.5), (TokenCandidate(1, b"Hi", -0.5),))
        first, *rest = says("<think>Hm.</think>", "Hi")(request)
        assert isinstance(rest[0], TokenEvent)
        return [first, TokenEvent(id=request.id, text="Hi", token_ids=(1,), logprobs=(likely,)), rest[1]]

    engine.script = script
    reply = (await ask(client, **fields)).json()
    assert engine.requests[0].logprobs == fields.get("top_logprobs", 0)
    (token,) = reply["output"][1]["content"][0]["logprobs"]
    assert (token["token"], token["logprob"], len(token["top_logprobs"])) == ("Hi", -0.5, 1)
    received = events(await ask(client, **fields, stream=True))
    (delta,) = (e for e in received if e["type"] == "response.output_text.delta")
    assert delta["logprobs"] == [token]


async def test_the_input_is_counted(client: httpx.AsyncClient) -> None:
    counted = await client.post("/v1/responses/input_tokens", json={"input": "hi", "tools": [TOOL]})
    expected = len("<s>get_weather [user]hi") - 2
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": expected}


@pytest.mark.parametrize(
    ("form", "param"),
    [({"type": "json_schema"}, "text.format.schema"), ({"type": "text", "strict": 3}, "text.format.strict")],
)
async def test_an_invalid_form(client: httpx.AsyncClient, form: dict[str, Any], param: str) -> None:
    assert (await ask(client, text={"format": form})).json()["error"]["param"] == param


async def test_a_type_that_is_not_a_string(client: httpx.AsyncClient) -> None:
    assert (await ask(client, [{"type": 3}])).json()["error"]["param"] == "input[0].type"


async def test_an_effort_if_thinking_is_not_parsed(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = replace(TALKER, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    assert (await ask(client, reasoning={"effort": "high"})).status_code == 200
