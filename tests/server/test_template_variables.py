"""The variables of a chat template, from the server's options and the request."""

from dataclasses import replace
from typing import Any

import pytest

from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine, says
from tests.server.tool_chat import TOOLS
from vram_llm.chat.dialect import dialect_of
from vram_llm.errors import RequestError
from vram_llm.server.config import ReasoningMode, ServerConfig
from vram_llm.server.template_variables import template_variables

SWITCH = (  # as Qwen 3: thinking is on unless switched off
    "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OTHER_SWITCH = SWITCH.replace(
    "not enable_thinking", "not thinking"
)  # as DeepSeek V3.1: off unless switched on
ALWAYS = (  # as DeepSeek R1: nothing switches it off
    "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
)
HI = {"messages": [{"role": "user", "content": "hi"}]}
OFF, ON = ServerConfig(reasoning=ReasoningMode.OFF), ServerConfig(reasoning=ReasoningMode.ON)
GIVEN = ServerConfig(chat_template_kwargs={"enable_thinking": False, "tone": "dry"})


@pytest.mark.parametrize(
    ("source", "config", "effort", "given", "wanted"),
    [
        (SWITCH, ServerConfig(), None, {}, {"enable_thinking": True}),
        (SWITCH, OFF, "none", {}, {"enable_thinking": False}),
        (SWITCH, ServerConfig(), "none", {"enable_thinking": True}, {"enable_thinking": True}),
        (SWITCH, GIVEN, None, {}, {"enable_thinking": False, "tone": "dry"}),
        (SWITCH, GIVEN, "high", {"tone": "kind"}, {"enable_thinking": True, "tone": "kind"}),
        (OTHER_SWITCH, ServerConfig(), None, {}, {"enable_thinking": True}),
        (OTHER_SWITCH, ON, None, {}, {"enable_thinking": True, "thinking": True}),
        (OTHER_SWITCH, ServerConfig(), "none", {}, {"enable_thinking": False, "thinking": False}),
        (
            OTHER_SWITCH,
            ServerConfig(),
            None,
            {"enable_thinking": True},
            {"enable_thinking": True, "thinking": True},
        ),
        (OTHER_SWITCH, GIVEN, None, {}, {"enable_thinking": False, "thinking": False, "tone": "dry"}),
        (
            OTHER_SWITCH,
            GIVEN,
            None,
            {"enable_thinking": True, "thinking": False},
            {"enable_thinking": True, "thinking": False, "tone": "dry"},
        ),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", ON, None, {}, {"enable_thinking": False}),
    ],
)
def test_order(
    source: str, config: ServerConfig, effort: str | None, given: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert template_variables(dialect_of(source), config, effort, given) == wanted


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"messages": []}, "'messages' in 'chat_template_kwargs' is set by the server"),
        ({"enable_thinking": "false"}, "'chat_template_kwargs.enable_thinking' must be true or false"),
    ],
)
def test_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence) as caught:
        template_variables(dialect_of(SWITCH), ServerConfig(), None, given)
    assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    ("source", "options", "fields", "end"),
    [
        (SWITCH, {}, {}, "[assistant]"),
        (SWITCH, {"reasoning": ReasoningMode.OFF}, {}, "[assistant]<think>\n\n</think>\n\n"),
        (SWITCH, {"reasoning": ReasoningMode.OFF}, {"reasoning_effort": "low"}, "[assistant]"),
        (
            SWITCH,
            {"reasoning": ReasoningMode.OFF},
            {"chat_template_kwargs": {"enable_thinking": True}},
            "[assistant]",
        ),
        (ALWAYS, {}, {}, "[assistant]<think>\n"),
        (ALWAYS, {"reasoning": ReasoningMode.OFF}, {}, "[assistant]<think>\n\n</think>\n\n"),
        (ALWAYS, {}, {"reasoning_effort": "none"}, "[assistant]<think>\n\n</think>\n\n"),
        (
            ALWAYS,
            {},
            {"chat_template_kwargs": {"enable_thinking": False}},
            "[assistant]<think>\n\n</think>\n\n",
        ),
        (SWITCH, {"chat_template_kwargs": {"enable_thinking": False}}, {}, "<think>\n\n</think>\n\n"),
    ],
)
async def test_prompts(
    connect: Connect,
    engine: FakeEngine,
    source: str,
    options: dict[str, Any],
    fields: dict[str, Any],
    end: str,
) -> None:
    engine.info, engine.script = replace(INFO, chat_template=source), says("Hello")
    response = await connect(**options).post("/v1/chat/completions", json={**HI, **fields})
    assert response.status_code == 200
    assert str(engine.requests[0].prompt).endswith(end)


NAMED = replace(
    INFO,
    chat_template="chat: {{ messages[0].content }}",
    tool_template=(
        '<tool_call>{"arguments": } tools: {% for t in tools %}{{ t.function.name }}{% endfor %}, '
        "{{ messages[0].content }}"
    ),
)


@pytest.mark.parametrize(
    ("info", "fields", "begins"),
    [
        (NAMED, {}, "chat: hi"),
        (NAMED, {"tools": TOOLS}, '<tool_call>{"arguments": } tools: get_weather, hi'),
        (NAMED, {"tools": TOOLS, "tool_choice": "none"}, "chat: hi"),
        (replace(NAMED, chat_template=None), {}, '<tool_call>{"arguments": } tools: , hi'),
        (replace(NAMED, tool_template="{% for %}"), {"tools": TOOLS}, "chat: # Tools"),
    ],
)
async def test_a_file_may_have_a_template_for_requests_with_tools(
    connect: Connect, engine: FakeEngine, info: Any, fields: dict[str, Any], begins: str
) -> None:
    engine.info = info
    response = await connect().post("/v1/chat/completions", json={**HI, **fields})
    assert response.status_code == 200
    assert str(engine.requests[0].prompt).startswith(begins)


async def test_both_are_shown(connect: Connect, engine: FakeEngine) -> None:
    engine.info = NAMED
    props = (await connect().get("/props")).json()
    assert props["chat_template"] == NAMED.chat_template
    assert props["chat_template_tool_use"] == NAMED.tool_template


async def test_a_template_given_to_the_server_is_used_everywhere(
    connect: Connect, engine: FakeEngine
) -> None:
    engine.info = NAMED
    client = connect(chat_template="mine: {{ messages[0].content }}")
    for path, fields in (
        ("/v1/chat/completions", {**HI, "tools": TOOLS}),
        ("/v1/messages", {**HI, "max_tokens": 9}),
        ("/v1/responses", {"input": "hi"}),
    ):
        assert (await client.post(path, json={"model": "tiny", **fields})).status_code == 200
        assert str(engine.requests[-1].prompt).startswith("mine: ")
    assert (await client.post("/apply-template", json=HI)).json()["prompt"] == "mine: hi"
    props = (await client.get("/props")).json()
    assert props["chat_template"].startswith("mine: ")
    assert "chat_template_tool_use" not in props
    assert (await client.get("/tokenizer_info")).json()["chat_template"].startswith("mine: ")
