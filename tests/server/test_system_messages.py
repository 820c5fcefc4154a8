"""System messages reach the prompt over every chat API, with a template that drops or refuses them."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.chat.kinds import FIRST_ONLY, KNOWS_DEVELOPER, NO_SYSTEM, STRICT_FIRST
from tests.server.fake_engine import INFO, FakeEngine, says

CHAT = {
    "messages": [
        {
            "role": "system",
            "content": [{"type": "text", "text": "ORDER-1"}, {"type": "text", "text": "Be kind."}],
        },
        {"role": "developer", "content": "ORDER-2"},
        {"role": "user", "content": "QUESTION-1"},
        {"role": "assistant", "content": "ANSWER-1"},
        {"role": "system", "content": "ORDER-3"},
        {"role": "user", "content": [{"type": "text", "text": "QUESTION-2"}]},
    ]
}
MESSAGES = {
    "max_tokens": 9,
    "system": [{"type": "text", "text": "ORDER-1"}, {"type": "text", "text": "ORDER-2"}],
    "messages": [
        {"role": "user", "content": "QUESTION-1"},
        {"role": "assistant", "content": "ANSWER-1"},
        {"role": "system", "content": "ORDER-3"},
        {"role": "user", "content": "QUESTION-2"},
    ],
}
RESPONSES = {
    "instructions": "ORDER-1",
    "input": [
        {"role": "developer", "content": "ORDER-2"},
        {"role": "user", "content": "QUESTION-1"},
        {"role": "assistant", "content": "ANSWER-1"},
        {"role": "system", "content": "ORDER-3"},
        {"role": "user", "content": [{"type": "input_text", "text": "QUESTION-2"}]},
    ],
}
TEXTS = ("ORDER-1", "ORDER-2", "ORDER-3", "QUESTION-1", "QUESTION-2", "ANSWER-1")


@pytest.mark.parametrize("source", [FIRST_ONLY, STRICT_FIRST, NO_SYSTEM, KNOWS_DEVELOPER, None])
@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", CHAT), ("/v1/messages", MESSAGES), ("/v1/responses", RESPONSES)],
)
async def test_all_system_messages_are_in_the_prompt(
    client: httpx.AsyncClient, engine: FakeEngine, path: str, body: dict[str, Any], source: str | None
) -> None:
    engine.info, engine.script = replace(INFO, chat_template=source), says("Yes.")
    response = await client.post(path, json={"model": "tiny", **body})
    assert response.status_code == 200, response.text
    prompt = str(engine.requests[0].prompt)
    assert all(prompt.count(text) == 1 for text in TEXTS)
    places = [prompt.index(text) for text in TEXTS[:3]]
    assert places == sorted(places)


async def test_a_message_that_cannot_be_shown_is_named(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = replace(INFO, chat_template="{{ messages[-1].content }}")
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "messages"
    assert "leaves out message 1 of this chat, of role 'system' ('ORDER-1" in error["message"]
