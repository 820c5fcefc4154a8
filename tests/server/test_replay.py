"""Requests that end because the model changed, or the engine died, are handled once more if nothing is sent.

tests/engine/test_changed_files.py replaces the file of a real engine.
"""

import httpx
import pytest

from tests.server.fake_engine import FakeEngine, Script, Step, says
from vram_llm.engine.request import Request, TokenEvent
from vram_llm.errors import AnswerCutOff, ModelChanged
from vram_llm.server import replay

CHANGED = ModelChanged("model.gguf holds another model now; send the request again")


def changes_after(n_pieces: int, n_times: int = 1) -> Script:
    """An engine whose model changes `n_times`, each time after `n_pieces` of an answer."""
    left, answer = [CHANGED] * n_times, says("Hel", "lo")

    def script(request: Request) -> list[Step]:
        events: list[Step] = list(answer(request))
        return [*events[:n_pieces], left.pop()] if left else events

    return script


async def ask(client: httpx.AsyncClient, **fields: object) -> httpx.Response:
    messages = [{"role": "user", "content": "Say hello"}]
    return await client.post("/v1/chat/completions", json={"messages": messages} | fields)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_new_model_answers(client: httpx.AsyncClient, engine: FakeEngine, stream: bool) -> None:
    engine.script = changes_after(0)
    answer = await ask(client, stream=stream)
    assert answer.status_code == 200
    assert "Hel" in answer.text


async def test_a_stream_of_which_only_half_a_character_is_there_begins_again(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    died = [AnswerCutOff("the engine process died after it had begun this answer")]

    def script(request: Request) -> list[Step]:
        half = TokenEvent(id=request.id, text="", token_ids=(1,), prompt_tokens=3)
        return [half, died.pop()] if died else list(says("Hel", "lo")(request))

    engine.script = script
    answer = await client.post("/v1/completions", json={"prompt": "Say hello", "stream": True})
    assert answer.status_code == 200
    assert (answer.text.count("Hel"), died) == (1, [])


async def test_it_does_so_once(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = changes_after(0, n_times=2)
    answer = await ask(client)
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, str(CHANGED))


async def test_a_stream_that_has_begun_ends_with_an_error(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.script = changes_after(1)
    answer = await ask(client, stream=True)
    assert answer.status_code == 200
    assert str(CHANGED) in answer.text
    assert answer.text.count("Hel") == 1


async def test_a_large_body_is_not_kept(
    client: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_MOST_BYTES", 10)
    engine.script = changes_after(0)
    assert (await ask(client)).status_code == 503
