"""Fields of input items and of their parts: known ones pass, unknown ones are refused by name."""

from typing import Any, get_args, get_origin, get_type_hints

import httpx
import pytest
from openai.types.responses.response_input_item_param import ResponseInputItemParam

from vram_llm.server.errors import UnknownParameter
from vram_llm.server.responses.item_fields import check_item

USER = {"type": "message", "role": "user", "content": "hi"}
TEXT = {"type": "input_text", "text": "hi"}
SAID = {"type": "output_text", "text": "yes", "annotations": [], "logprobs": []}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "1"}
PATCH = {"type": "custom_tool_call", "call_id": "c", "name": "p", "input": "x"}
PATCHED = {"type": "custom_tool_call_output", "call_id": "c", "output": "done"}
SHELL = {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}}
THOUGHT = {"type": "reasoning", "summary": []}
SUMMARY = {"type": "summary_text", "text": "t"}
SEARCH = {"type": "file_search_call", "id": "s", "queries": ["q"], "results": None}
AGENT = {"type": "agent_message", "author": "a", "recipient": "b", "content": [TEXT]}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}

NAMED = {"type": "function", "name": "f"}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [NAMED]}
REGEX = {"type": "grammar", "syntax": "regex", "definition": "a"}


async def ask(client: httpx.AsyncClient, *items: dict[str, Any]) -> httpx.Response:
    return await client.post("/v1/responses", json={"model": "gpt", "input": [USER, *items]})


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({**USER, "foo": 1}, "foo"),
        ({"role": "user", "content": "hi", "foo": 1}, "foo"),
        ({**USER, "tool_calls": [{}]}, "tool_calls"),
        ({**USER, "content": [TEXT, {**TEXT, "foo": 1}]}, "content[1].foo"),
        ({**USER, "role": "assistant", "content": [{**SAID, "foo": 1}]}, "content[0].foo"),
        ({**USER, "role": "assistant", "content": [{"type": "refusal", "refusal": "no", "text": "x"}]},
         "content[0].text"),
        ({**THOUGHT, "foo": 1}, "foo"),
        ({**THOUGHT, "summary": [{**SUMMARY, "foo": 1}]}, "summary[0].foo"),
        ({**CALL, "foo": 1}, "foo"),
        ({**PATCH, "arguments": "{}"}, "arguments"),
        ({**SHELL, "foo": 1}, "foo"),
        ({**SEARCH, "foo": 1}, "foo"),
        ({**AGENT, "foo": 1}, "foo"),
        ({**AGENT, "content": [{**TEXT, "foo": 1}]}, "content[0].foo"),
        ({**RESULT, "foo": 1}, "foo"),
        ({**RESULT, "output": [{**TEXT, "foo": 1}]}, "output[0].foo"),
        ({**PATCHED, "foo": 1}, "foo"),
        ({"type": "mcp_call", "id": "m", "name": "n", "foo": 1}, "foo"),
        ({"type": "compaction", "encrypted_content": "x", "foo": 1}, "foo"),
        ({"type": "item_reference", "id": "x", "foo": 1}, "foo"),
        ({"type": "additional_tools", "role": "developer", "tools": [TOOL], "foo": 1}, "foo"),
        ({"type": "additional_tools", "role": "developer", "tools": [TOOL, {**TOOL, "foo": 1}]},
         "tools[1].foo"),
        ({"type": "configuration_update", "reasoning": {"effort": "low"}, "foo": 1}, "foo"),
        ({"type": "configuration_update", "reasoning": {"effort": "low", "foo": 1}}, "reasoning.foo"),
    ],
)  # fmt: skip
async def test_an_unknown_field_is_refused_by_name(
    client: httpx.AsyncClient, item: dict[str, Any], param: str
) -> None:
    response = await ask(client, item)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    place = f"input[1].{param}"
    assert error == {
        "message": f"Unrecognized request argument supplied: {place}",
        "type": "invalid_request_error",
        "param": place,
        "code": error["code"],
    }


@pytest.mark.parametrize(
    "item",
    [
        {**USER, "id": "msg_1", "status": "completed", "foo": None},
        {**USER, "phase": "commentary", "end_turn": True, "metadata": {"a": "b"}},
        {**USER, "content": [{**TEXT, "prompt_cache_breakpoint": {"mode": "explicit"}, "foo": None}]},
        {**USER, "role": "assistant", "id": "m", "status": "completed", "phase": "final_answer",
         "content": [{**SAID, "parsed": {"a": 1}}]},
        {**THOUGHT, "id": "r", "encrypted_content": "x", "status": None, "content": None},
        {**CALL, "id": "f", "status": "completed", "namespace": "n", "parsed_arguments": {},
         "caller": {"type": "direct"}, "async": False, "created_by": "x"},
        {**RESULT, "id": "o", "status": "completed", "caller": {"type": "direct"}},
        {**PATCH, "id": "f", "status": "completed", "namespace": "n"},
        {**PATCHED, "name": "p", "id": "o"},
        {**SHELL, "id": "l", "status": "completed"},
        {**SEARCH, "status": "completed"},
        {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search"}, "new": 1},
        {"type": "image_generation_call", "id": "i", "result": None, "new": 1},
        {"type": "additional_tools", "role": "developer", "tools": [TOOL, {"type": "mcp", "new": {"a": 1}}]},
    ],
)  # fmt: skip
async def test_fields_that_clients_add_are_accepted(client: httpx.AsyncClient, item: dict[str, Any]) -> None:
    response = await ask(client, item)
    assert response.status_code == 200, response.text


def test_every_field_of_the_sdk_is_known() -> None:
    unknown = []
    for kind in get_args(ResponseInputItemParam):
        hints = get_type_hints(kind)
        name = _literal(hints["type"])
        for field in hints:
            try:
                check_item({"type": name, field: name if field == "type" else 1}, "input[0]")
            except UnknownParameter:
                unknown.append((name, field))
    assert not unknown


def _literal(hint: Any) -> str:
    """The string of a Literal, which may be wrapped in Required, Annotated or Optional."""
    while not isinstance(hint, str):
        assert get_origin(hint) is not None
        hint = get_args(hint)[0]
    return hint


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "name": "p", "format": {"type": "text", "foo": 1}}]},
         "tools[0].format.foo"),
        ({"tools": [{"type": "custom", "name": "p", "format": {**REGEX, "foo": 1}}]}, "tools[0].format.foo"),
        ({"tools": [TOOL], "tool_choice": {**ALLOWED, "foo": 1}}, "tool_choice.foo"),
        ({"tools": [TOOL], "tool_choice": {**ALLOWED, "tools": [{**NAMED, "foo": 1}]}},
         "tool_choice.tools[0].foo"),
        ({"input": [{"type": "item_reference", "id": "x", "foo": 1}]}, "input[0].foo"),
    ],
)  # fmt: skip
async def test_an_unknown_field_of_a_tool_is_refused_by_name(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/responses", json={"model": "gpt", "input": "hi", **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"] == f"Unrecognized request argument supplied: {param}"


@pytest.mark.parametrize("named", [NAMED, {**TOOL, "description": "d", "strict": False}])
async def test_allowed_tools_are_named_or_repeated(client: httpx.AsyncClient, named: dict[str, Any]) -> None:
    fields = {"tools": [TOOL], "tool_choice": {**ALLOWED, "tools": [named]}}
    response = await client.post("/v1/responses", json={"model": "gpt", "input": "hi", **fields})
    assert response.status_code == 200, response.text


async def test_an_update_to_an_effort_that_does_not_exist_is_refused(client: httpx.AsyncClient) -> None:
    response = await ask(client, {"type": "configuration_update", "reasoning": {"effort": "much"}})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input[1].reasoning.effort"
