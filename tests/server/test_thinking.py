"""Thinking over HTTP, between the marks that the model's template writes."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.server.fake_engine import INFO, FakeEngine, says
from tests.server.test_chat import lines

GEMMA = (
    "{% for m in messages %}<|turn>{{ m.role }}\n{% if m.reasoning_content %}<|channel>thought\n"
    "{{ m.reasoning_content }}<channel|>{% endif %}{{ m.content }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% if enable_thinking is defined and not enable_thinking %}"
    "<|channel>thought\n<channel|>{% endif %}{% endif %}"
)
COHERE = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}<|START_THINKING|>"
    "{{ m.reasoning_content }}<|END_THINKING|><|START_TEXT|>{{ m.content }}<|END_TEXT|>{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|><|START_THINKING|>"
    "{% endif %}"
)
HI: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "2+2?"}], "max_tokens": 99}
SAID = {
    GEMMA: ("<|channel>", "thou", "ght\nHm", ".<cha", "nnel|>", "Four", ".<channel|>"),
    COHERE: ("Hm.", "<|END_THINKING|>", "<|START_TEXT|>", "Fo", "ur.", "<|END_TEXT|>"),
}


@pytest.fixture(params=SAID)
def engine(request: pytest.FixtureRequest) -> FakeEngine:
    return FakeEngine(says(*SAID[request.param]), replace(INFO, chat_template=request.param))


async def test_a_chat(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = (await client.post("/v1/chat/completions", json=HI)).json()
    message = reply["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Four.")
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    shown = {"<|channel>", "<channel|>"}, {"<|START_THINKING|>", "<|END_THINKING|>", "<|START_TEXT|>"}
    assert any(marks <= set(engine.requests[0].marks) for marks in shown)


async def test_a_streamed_chat(client: httpx.AsyncClient) -> None:
    chunks = lines(await client.post("/v1/chat/completions", json={**HI, "stream": True}))[:-1]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Hm."
    assert "".join(delta.get("content") or "" for delta in deltas) == "Four."


async def test_a_message(client: httpx.AsyncClient) -> None:
    thinking, text = (await client.post("/v1/messages", json=HI)).json()["content"]
    assert (thinking["thinking"], text["text"]) == ("Hm.", "Four.")


async def test_a_response(client: httpx.AsyncClient) -> None:
    output = (await client.post("/v1/responses", json={"model": "tiny", "input": "2+2?"})).json()["output"]
    assert [item["type"] for item in output] == ["reasoning", "message"]
    assert output[0]["content"][0]["text"] == "Hm."
    assert output[1]["content"][0]["text"] == "Four."


async def test_no_effort(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await client.post("/v1/chat/completions", json={**HI, "reasoning_effort": "none"})
    assert str(engine.requests[0].prompt).endswith(
        ("<|channel>thought\n<channel|>", "<|START_THINKING|><|END_THINKING|><|START_TEXT|>")
    )


async def test_an_answer_of_a_given_form_begins_after_the_thinking(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await client.post("/v1/chat/completions", json={**HI, "response_format": {"type": "json_object"}})
    assert str(engine.requests[0].prompt).endswith(
        ("<|channel>thought\n<channel|>", "<|START_THINKING|><|END_THINKING|><|START_TEXT|>")
    )


async def test_thinking_that_was_closed_but_never_opened(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.info = replace(INFO, chat_template="{{ messages[0].content.split('</think>')[-1] }}")
    engine.script = says("Hm", ".\n</think>", "\n\nFour.")
    message = (await client.post("/v1/chat/completions", json=HI)).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Four.")
    chunks = lines(await client.post("/v1/chat/completions", json={**HI, "stream": True}))[:-1]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Hm.Four."  # what went out stays
