"""`vram-llm serve` with several models: real engines, by OpenAI's client."""

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.patience import PATIENCE_S, looks, soon, until
from tests.server.live import Serving, async_openai_sdk, http_client, serving
from tools.random_model import write_llama

pytestmark = pytest.mark.process

N_TOKENS = 120
HI: Any = [{"role": "user", "content": "hi"}]
FILE = """\
n-ctx: 2048
parallel: 4
models:
  - name: one
    source: {folder}/one.gguf
    preload: true
    temperature: 0
    aliases: [gpt-4o]
  - name: two
    source: {folder}/two.gguf
    temperature: 0
    min-residency: 0s
"""


class ServedFile:
    """A running server of several models, and its file."""

    def __init__(self, server: Serving, path: Path) -> None:
        self.server = server
        self.path = path
        self.text = path.read_text()

    def engines(self) -> dict[str, int]:
        """Process ids of the engines, by model."""
        models = httpx.get(f"{self.server.url}/status", timeout=PATIENCE_S).json()["models"]
        return {model["id"]: model["pid"] for model in models if model["pid"] is not None}

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.server.process.send_signal(signal.SIGHUP)

    def log_after(self, n_lines: int, words: str) -> str:
        """The first line of the log after `n_lines` that has `words`."""
        for _ in looks():
            found = [line for line in self.server._said[n_lines:] if words in line]
            if found:
                return found[0]
        raise AssertionError(f"no line with {words!r}: {self.server._said[n_lines:]}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFile]:
    folder = tmp_path_factory.mktemp("fleet")
    for seed, name in enumerate(("one", "two", "three")):
        write_llama(folder / f"{name}.gguf", seed=seed)
    path = folder / "fleet.yaml"
    path.write_text(FILE.format(folder=folder))
    with serving("--config", path) as server:
        server.await_health()
        yield ServedFile(server, path)


def _states(client: openai.OpenAI) -> dict[str, str]:
    cards: Any = client.models.list().data
    return {card.id: card.status["state"] for card in cards}


def _answer(client: openai.OpenAI, model: str, n: int = 8) -> str:
    reply = client.chat.completions.create(model=model, messages=HI, max_tokens=n)
    assert reply.model == model
    return reply.choices[0].message.content or ""


def test_models_answer_under_their_names(served: ServedFile) -> None:
    client = served.server.client
    assert _states(client) == {"one": "resident", "gpt-4o": "resident", "two": "unloaded"}
    one, two = _answer(client, "one"), _answer(client, "two")  # which loads it
    assert one != two
    assert _answer(client, "gpt-4o") == one
    assert _states(client)["two"] == "resident"
    with pytest.raises(openai.NotFoundError, match="this server has 'one', 'gpt-4o', 'two'"):
        _answer(client, "three")
    assert client.responses.create(model="two", input="hi", max_output_tokens=4).model == "two"


async def test_an_engine_that_is_killed_does_not_stop_others_streams(served: ServedFile) -> None:
    """Its own stream goes on, for it has no random choice."""
    before = served.engines()
    async with async_openai_sdk(served.server.url, timeout=PATIENCE_S) as client:
        counted = [_Counted(), _Counted()]
        asked = zip(("one", "two"), counted, strict=True)
        streams = [asyncio.create_task(_stream(client, name, each)) for name, each in asked]
        await until(lambda: all(task.n_chunks for task in counted), "streams")
        psutil.Process(before["two"]).kill()
        assert await soon(asyncio.gather(*streams)) == [N_TOKENS, N_TOKENS]
    # the engine may have computed its last token before it was killed; then the next one may still be loading
    await until(lambda: served.engines().get("two", before["two"]) != before["two"], "a new engine")
    assert served.engines()["one"] == before["one"]


@dataclass
class _Counted:
    n_chunks: int = 0


async def _stream(client: openai.AsyncOpenAI, model: str, counted: _Counted) -> int:
    """The number of an answer's tokens."""
    stream: Any = await client.chat.completions.create(
        model=model, messages=HI, stream=True, max_tokens=N_TOKENS, extra_body={"ignore_eos": True},
        stream_options={"include_usage": True},
    )  # fmt: skip
    async for chunk in stream:
        counted.n_chunks += 1
        if chunk.usage is not None:
            n_tokens: int = chunk.usage.completion_tokens
    return n_tokens


def test_a_question_about_a_model_that_is_not_the_first(served: ServedFile) -> None:
    reply = httpx.post(f"{served.server.url}/plan", json={"model": "two", "n_ctx": 1024}, timeout=PATIENCE_S)
    answer = reply.json()
    assert (answer["fits"], answer["n_ctx"]) == (True, 1024)
    assert answer["notes"][0] == "two beside one"


def test_hangup_with_a_broken_file_keeps_the_old_one(served: ServedFile) -> None:
    client, engines, n_lines = served.server.client, served.engines(), len(served.server._said)
    served.write("drain-timeout: 7\n" + served.text.replace("preload: true", "preload: perhaps"))
    line = served.log_after(n_lines, "stays as it is")
    assert "fleet.yaml:7: preload" in line
    assert not any("after a restart" in each for each in served.server._said[n_lines:])
    assert served.engines() == engines
    assert set(_states(client)) == {"one", "gpt-4o", "two"}


def test_hangup_changes_only_what_the_file_changes(served: ServedFile) -> None:
    client, engines, n_lines = served.server.client, served.engines(), len(served.server._said)
    folder = served.path.parent
    served.write(f"drain-timeout: 7\n{served.text}  - name: three\n    source: {folder}/three.gguf\n")
    assert served.log_after(n_lines, "read again").endswith("read again; new: three\n")
    assert "drain-timeout: used after a restart" in served.log_after(n_lines, "restart of the server")
    assert engines.items() <= served.engines().items()
    assert _answer(client, "three") != _answer(client, "one")
    served.write(served.text)
    assert "gone: three" in served.log_after(n_lines, "gone")
    assert engines.items() <= served.engines().items()
    with pytest.raises(openai.NotFoundError):
        _answer(client, "three")


async def test_orders_and_events(served: ServedFile) -> None:
    """Clients of llama-server's router unload and load a model, and read how that goes."""
    async with http_client(served.server.url) as http, http.stream("GET", "/models/sse") as events:
        lines = events.aiter_lines()
        assert await soon(anext(lines)) == ": waiting"
        for order, words in (("unload", '"status":"unloaded"'), ("load", '"status":"loaded"')):
            reply = await http.post(f"/models/{order}", json={"model": "two"})
            assert reply.json() == {"success": True}
            async for line in lines:
                if '"model":"two"' in line and words in line:
                    break
        metrics = (await http.get("/metrics")).text
    assert 'vram_llm:model_state{model="two",state="resident"} 1.0' in metrics
    assert "vllm:generation_tokens_total" in metrics


def test_an_engine_whose_file_was_replaced_is_planned_again(served: ServedFile) -> None:
    """Here by a longer model, at a death of the engine."""
    client, path = served.server.client, served.path.parent / "two.gguf"
    before, n_lines = _answer(client, "two"), len(served.server._said)
    other = write_llama(path.with_suffix(".new"), n_ff=(128,) * 6, seed=7)
    other.rename(path)
    psutil.Process(served.engines()["two"]).kill()
    assert _answer(client, "two") != before
    assert "it is planned anew" in served.log_after(n_lines, "planned")
    assert _states(client)["two"] == "resident"


def test_a_pulled_model_appears_and_no_process_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, path = tmp_path / "cache", tmp_path / "fleet.yaml"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    _pull(cache, "first")
    path.write_text("n-ctx: 1024\nmodels:\n  - source: installed\n")
    with serving("--config", path) as server:
        server.await_health()
        assert list(_states(server.client)) == ["first-F16"]
        assert _answer(server.client, "first-F16")
        _pull(cache, "second")
        for _ in looks():
            if "second-F16" in _states(server.client):
                break
        assert _states(server.client) == {"first-F16": "resident", "second-F16": "unloaded"}
        children = server.children()
        assert server.end() == 0
        assert not [child for child in children if child.is_running()]


def _pull(cache: Path, name: str) -> None:
    """Put a model where `vram-llm pull` does."""
    folder = cache / f"models--org--{name}-GGUF"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    write_llama(folder / "snapshots" / "abc" / f"{name}-F16.gguf", seed=len(name))
