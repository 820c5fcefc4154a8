"""How long a model may think: the server's setting, on its way to the engine."""

from dataclasses import replace
from typing import Any

import pytest

from tests.server.fake_engine import FakeEngine, says
from tests.server.live import app_of, in_process
from tests.server.tool_chat import TALKER
from vram_llm.engine.request import ReasoningBudget

HI = {"messages": [{"role": "user", "content": "hi"}]}
OPENS = "{% for m in messages %}{{ m.content }}{% endfor %}{#- </think> -#}<think>"


async def _prompt_and_budget(
    n_tokens: int | None, template: str | None, path: str = "/v1/chat/completions", **fields: Any
) -> tuple[str, ReasoningBudget | None]:
    engine = FakeEngine(says("Hello."), replace(TALKER, chat_template=template))
    async with in_process(app_of(engine, reasoning_budget=n_tokens)) as client:
        response = await client.post(path, json={**({} if "input" in fields else HI), **fields})
        assert response.status_code == 200, response.text
    (request,) = engine.requests
    return str(request.prompt), request.reasoning_budget


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/messages", {"max_tokens": 9}),
        ("/v1/responses", {"input": "hi"}),
    ],
)
async def test_every_api_has_the_servers_budget(path: str, fields: Any) -> None:
    prompt, budget = await _prompt_and_budget(30, OPENS, path, **fields)
    assert prompt.endswith("<think>")
    assert budget is not None
    assert (budget.n_tokens, budget.opened) == (30, True)
    assert (budget.opening, budget.closing) == ("<think>", "</think>")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"thinking_budget": 20}),
        ("/v1/messages", {"max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": 20}}),
    ],
)
@pytest.mark.parametrize(("of_server", "most"), [(None, 20), (30, 20), (20, 20), (10, 10)])
async def test_the_lesser_of_the_servers_budget_and_the_requests(
    path: str, fields: Any, of_server: int | None, most: int
) -> None:
    _, budget = await _prompt_and_budget(of_server, OPENS, path, **fields)
    assert budget is not None
    assert budget.n_tokens == most


async def test_a_request_for_no_limit_has_the_servers() -> None:
    _, budget = await _prompt_and_budget(30, OPENS, thinking_budget=-1)
    assert budget is not None
    assert budget.n_tokens == 30


async def test_no_budget() -> None:
    assert (await _prompt_and_budget(None, OPENS))[1] is None


async def test_thinking_of_no_length_is_closed_in_the_prompt() -> None:
    prompt, budget = await _prompt_and_budget(0, OPENS)
    assert prompt.endswith("<think>\n</think>\n\n")
    assert budget is None or not budget.opened


async def test_thinking_of_no_length_is_switched_off_if_the_template_can() -> None:
    """If the model begins it nevertheless, the engine closes it."""
    prompt, budget = await _prompt_and_budget(0, TALKER.chat_template)
    assert prompt.endswith("[user]hiFalse")
    assert budget is not None
    assert (budget.n_tokens, budget.opened) == (0, False)


async def test_a_model_that_does_not_think_has_no_budget() -> None:
    assert (await _prompt_and_budget(5, None))[1] is None


async def test_harmony_thinks_on_a_channel_of_its_own() -> None:
    """The message's end and the beginning of the next header close it."""
    template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}<|start|>assistant{#- <|channel|><|message|> -#}"
    )
    _, budget = await _prompt_and_budget(5, template)
    assert budget is not None
    assert budget.again
    assert budget.opening == "<|channel|>analysis<|message|>"
    assert budget.closing == "<|end|><|start|>assistant"
