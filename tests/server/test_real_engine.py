"""The built-in model behind the endpoints: forced calls, tokens, and schemathesis's requests."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import openai
import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.conftest import PlanOnCpu
from tests.patience import PATIENCE_S
from tests.server.live import anthropic_sdk, in_thread, listening_with, openai_sdk
from tests.server.openapi import each_operation, try_cases
from vram_llm import demo

if TYPE_CHECKING:  # tests/server/openapi.py loads it
    import schemathesis

pytestmark = pytest.mark.process

PARAMETERS = {
    "type": "object",
    "properties": {"pen": {"$ref": "#/$defs/Pen"}, "big": {"type": "boolean"}},
    "required": ["pen", "big"],
    "additionalProperties": False,
    "$defs": {"Pen": {"enum": ["red", "blue"]}},
}
BUDGET = 4  # tokens of thinking, for those that ask for any
SETTINGS = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def base_url(plan_on_cpu: PlanOnCpu) -> Iterator[str]:
    plan = plan_on_cpu(demo.path(), n_ctx=2048, parallel=2)
    with in_thread(listening_with(plan, "demo", reasoning_budget=BUDGET)) as url:
        yield url


@pytest.fixture
def sdk(base_url: str) -> Iterator[openai.OpenAI]:
    with openai_sdk(base_url) as client:
        yield client


def check_arguments(text: str) -> None:
    arguments = json.loads(text)
    assert arguments["pen"] in ("red", "blue")
    assert arguments["big"] in (True, False)


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_without_thinking(sdk: openai.OpenAI, stream: bool) -> None:
    tools: Any = [
        {"type": "function", "function": {"name": "paint", "parameters": PARAMETERS}},
        {"type": "function", "function": {"name": "now"}},
    ]
    choice: Any = {"type": "function", "function": {"name": "paint"}}
    if stream:
        with sdk.chat.completions.stream(
            model="demo", messages=HI, tools=tools, tool_choice=choice, seed=1, max_tokens=200
        ) as chunks:
            reply: Any = chunks.get_final_completion()
    else:
        reply = sdk.chat.completions.create(
            model="demo", messages=HI, tools=tools, tool_choice=choice, seed=1, max_tokens=200
        )
    assert reply.choices[0].finish_reason == "tool_calls"
    (call,) = reply.choices[0].message.tool_calls
    assert call.function.name == "paint"
    check_arguments(call.function.arguments)


def test_responses_and_messages_must_call_too(sdk: openai.OpenAI, base_url: str) -> None:
    tools: Any = [{"type": "function", "name": "paint", "parameters": PARAMETERS, "strict": True}]
    reply = sdk.responses.create(
        model="demo", input="hi", tools=tools, tool_choice="required", max_output_tokens=200
    )
    assert reply.output[0].type == "function_call"
    check_arguments(reply.output[0].arguments)
    with anthropic_sdk(base_url) as client:
        own: Any = [{"name": "paint", "input_schema": PARAMETERS}]
        message = client.messages.create(
            model="demo", max_tokens=200, messages=HI, tools=own, tool_choice={"type": "any"}
        )
        assert message.stop_reason == "tool_use"
        assert message.content[0].type == "tool_use"
        check_arguments(json.dumps(message.content[0].input))
        counted = client.messages.count_tokens(model="demo", messages=HI, tools=own)
        assert counted.input_tokens > 20


def _token(sdk: openai.OpenAI, base_url: str, text: str) -> int:
    (token,) = sdk.post(f"{base_url}/tokenize", body={"content": text}, cast_to=object)["tokens"]  # type: ignore[index]  # of JSON
    assert isinstance(token, int)
    return token


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_strict_arguments_are_constrained_from_the_beginning_of_a_call(
    sdk: openai.OpenAI, base_url: str, temperature: float
) -> None:
    """A bias makes the model begin a call."""
    tools: Any = [
        {"type": "function", "function": {"name": "paint", "parameters": PARAMETERS, "strict": True}},
        {"type": "function", "function": {"name": "now"}},
    ]
    reply: Any = sdk.chat.completions.create(
        model="demo",
        messages=HI,
        tools=tools,
        parallel_tool_calls=False,
        temperature=temperature,
        seed=1,
        max_tokens=200,
        logit_bias={str(_token(sdk, base_url, "<tool_call>")): 100},
    )
    assert reply.choices[0].finish_reason == "tool_calls"
    (call,) = reply.choices[0].message.tool_calls
    if call.function.name == "paint":
        check_arguments(call.function.arguments)
    else:
        assert (call.function.name, call.function.arguments) == ("now", "{}")


@pytest.mark.parametrize("is_strict", [False, True])
def test_thinking_is_closed_once_its_budget_is_spent(sdk: openai.OpenAI, is_strict: bool) -> None:
    """With a grammar and without one."""
    tools: Any = [
        {"type": "function", "function": {"name": "paint", "parameters": PARAMETERS, "strict": is_strict}}
    ]
    reply = sdk.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is a KV cache?"}],
        tools=tools,
        reasoning_effort="high",
        temperature=0,
        max_tokens=60,
    )
    assert reply.usage is not None
    details = reply.usage.completion_tokens_details
    assert details is not None
    assert 0 < (details.reasoning_tokens or 0) <= BUDGET + 3  # a character is finished
    assert reply.usage.completion_tokens > BUDGET + 4


@pytest.mark.parametrize("wants_call", [False, True])
def test_a_call_or_an_answer_of_a_form(sdk: openai.OpenAI, base_url: str, wants_call: bool) -> None:
    """A bias decides which of them the model begins."""
    tools: Any = [{"type": "function", "function": {"name": "paint", "parameters": PARAMETERS}}]
    form: Any = {"type": "json_schema", "json_schema": {"name": "paint", "schema": PARAMETERS}}
    reply: Any = sdk.chat.completions.create(
        model="demo",
        messages=HI,
        tools=tools,
        response_format=form,
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=200,
        logit_bias={str(_token(sdk, base_url, "<tool_call>")): 100 if wants_call else -100},
    )
    message = reply.choices[0].message
    if wants_call:
        check_arguments(message.tool_calls[0].function.arguments)
        assert message.content is None
    else:
        check_arguments(message.content)
        assert not message.tool_calls


def test_the_count_equals_the_usage(sdk: openai.OpenAI, base_url: str) -> None:
    with anthropic_sdk(base_url) as client:
        counted = client.messages.count_tokens(model="demo", messages=HI)
        used = client.messages.create(model="demo", max_tokens=1, messages=HI)
    usage = used.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_tokens_and_back(sdk: openai.OpenAI, base_url: str) -> None:
    text = "Grüße, 世界 🙂"
    tokens: Any = sdk.post(f"{base_url}/tokenize", body={"content": text}, cast_to=object)
    detokenized: Any = sdk.post(f"{base_url}/detokenize", body=tokens, cast_to=object)
    assert detokenized == {"content": text, "prompt": text}


@each_operation
def test_no_server_error(operation: str, base_url: str) -> None:
    from schemathesis.checks import not_a_server_error

    def check(case: "schemathesis.Case[Any]") -> None:
        if isinstance(case.body, dict):  # bounded: nobody waits for a full context
            for name in ("max_tokens", "max_output_tokens", "max_completion_tokens", "n_predict"):
                if name in case.body and case.body[name] is not None:
                    case.body[name] = 4
            if case.path in ("/completion", "/completions", "/infill"):  # without a limit of their own
                case.body.setdefault("n_predict", 4)
        response = case.call(base_url=base_url, timeout=PATIENCE_S)
        if response.status_code != 501:  # the built-in model has no tokens for gaps
            case.validate_response(response, checks=[not_a_server_error])
        assert response.status_code < 400 or response.json()["error"]["message"]

    try_cases(operation, check, SETTINGS)


def test_a_chat_longer_than_the_context_loses_its_oldest_turns(sdk: openai.OpenAI) -> None:
    """The prompt that remains fits, and the next request of the chat finds its beginning computed."""
    said: Any = [{"role": "system", "content": "Be kind."}]
    for number in range(40):
        said += [{"role": "user", "content": f"Question {number}: {'why ' * 40}"}]
        said += [{"role": "assistant", "content": f"Answer {number}"}]
    with pytest.raises(openai.BadRequestError, match="'truncate': true"):
        sdk.chat.completions.create(model="demo", messages=[*said, *HI])
    create: Any = sdk.chat.completions.with_raw_response.create
    wanted: Any = {"max_tokens": 50, "temperature": 0, "extra_body": {"truncate": True}}
    first = create(model="demo", messages=[*said, *HI], **wanted)
    n_dropped = int(first.headers["x-dropped-messages"])
    assert 0 < n_dropped < len(said) - 1
    reply = first.parse()
    assert 1000 < reply.usage.prompt_tokens <= 2048 - 50
    assert reply.usage.prompt_tokens_details.dropped_messages == n_dropped
    longer = [*said, *HI, {"role": "assistant", "content": "ok"}, *HI]
    details = create(model="demo", messages=longer, **wanted).parse().usage.prompt_tokens_details
    assert details.dropped_messages == n_dropped
    assert details.cached_tokens > 1000
    response = sdk.responses.create(model="demo", input=[*said, *HI], truncation="auto", max_output_tokens=8)
    assert response.truncation == "auto"
    assert response.usage is not None
    assert response.usage.input_tokens < 2048
