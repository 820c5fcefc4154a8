"""Bodies that known clients send to chats; the built-in model answers greedily."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.conftest import PlanOnCpu
from tests.engine.harness import running
from tests.server.live import app_of, in_process
from vram_llm import demo

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]
QUESTION = [{"role": "user", "content": "What is a KV cache?"}]
NOW = {"type": "function", "function": {"name": "now"}}
SEEN = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
BARE = {"type": "function", "function": {"name": "g", "parameters": {}}}
CALL = {"id": "call_1", "type": "function", "index": 0, "function": {"name": "now", "arguments": "{}"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(plan_on_cpu: PlanOnCpu) -> AsyncIterator[httpx.AsyncClient]:
    plan = plan_on_cpu(demo.path(), n_ctx=2048, parallel=2)
    async with running(plan, "demo") as engine, in_process(app_of(engine)) as client:
        yield client


async def ask(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    kwargs = {"enable_thinking": False}
    body = {
        "messages": QUESTION, "max_tokens": 16, "temperature": 0, "chat_template_kwargs": kwargs, **fields,
    }  # fmt: skip
    return await client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": ""},
        {"model": None},
        {"model": "gpt-4o"},
        # LM Studio's, llama-server's, Ollama's and Open WebUI's users
        {"max_tokens": -1, "min_p": 0.0, "stop": ["."], "ttl": 300},
        {"num_ctx": 2048},
        {"max_tokens": None, "options": {"num_predict": 8, "num_ctx": 2048}, "keep_alive": "10m"},
        {"cache_prompt": True, "id_slot": -1, "n_predict": 16, "samplers": ["top_k", "temperature"]},
        # vLLM's
        {"add_generation_prompt": True, "continue_final_message": False, "add_special_tokens": False},
        {"min_tokens": 3, "stop_token_ids": [], "include_stop_str_in_output": False, "priority": 0},
        # OpenRouter's
        {"reasoning": {"effort": "low", "exclude": True}, "provider": {"sort": "price"}, "max_tokens": 80},
        {"reasoning": {"enabled": False}, "usage": {"include": True}, "include_reasoning": True},
        # an answer of ours, sent back
        {"messages": [*QUESTION, {"role": "assistant", "content": "A store.", "refusal": None,
                                  "annotations": [], "reasoning": "hm", "reasoning_details": [], "id": "x",
                                  "parsed": None, "timestamp": 3, "function_call": None, "tool_calls": []},
                      *QUESTION]},
        {"messages": [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                      {"role": "tool", "tool_call_id": "call_1", "name": "now",
                       "content": [{"type": "text", "text": "noon"}]}], "tools": [NOW]},
        {"tools": [{**NOW, "cache_control": {"type": "ephemeral"}}], "tool_choice": "none"},
        {"functions": [{"name": "now", "parameters": {"type": "object", "properties": {}}}],
         "function_call": "none"},
    ],
    ids=str,
)  # fmt: skip
async def test_accepted(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    response = await ask(client, **fields)
    assert response.status_code == 200, response.text
    reply = response.json()
    assert reply["model"] == "demo"
    assert reply["choices"][0]["message"]["content"]
    assert "reasoning_content" not in reply["choices"][0]["message"]


@pytest.mark.parametrize("tool", [NOW, SEEN, BARE])
async def test_a_function_without_parameters_takes_an_empty_object(
    client: httpx.AsyncClient, tool: dict[str, Any]
) -> None:
    message = (await ask(client, tools=[tool], tool_choice="required", max_tokens=60)).json()
    (call,) = message["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {}


async def test_a_last_message_of_the_assistants_is_continued(client: httpx.AsyncClient) -> None:
    first = (await ask(client)).json()["choices"][0]["message"]["content"]
    begun = [*QUESTION, {"role": "assistant", "content": first}]
    whole = (await ask(client, max_tokens=24)).json()["choices"][0]["message"]["content"]
    rest = (await ask(client, messages=begun, max_tokens=8)).json()["choices"][0]["message"]["content"]
    assert first + rest == whole


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"num_ctx": 8192}, "num_ctx"),
        ({"reasoning": {"depth": 3}}, "reasoning.depth"),
        ({"stream_options": {"foo": True}}, "stream_options.foo"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ],
    ids=str,
)
async def test_refused_in_a_sentence(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await ask(client, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert param in error["message"]
    assert "\n" not in error["message"]


async def test_a_prompt_that_is_too_long(client: httpx.AsyncClient) -> None:
    response = await ask(client, messages=[{"role": "user", "content": "word " * 4000}])
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["n_prompt_tokens"] > error["n_ctx"] == 2048


async def test_the_models_own_facts(client: httpx.AsyncClient) -> None:
    (card,) = (await client.get("/v1/models")).json()["data"]
    assert card["meta"]["n_ctx"] == card["max_model_len"] == 2048
    assert card["meta"]["n_embd"] > 0
    assert card["meta"]["n_ctx_train"] >= 2048
    assert card["meta"]["size"] > 1_000_000
