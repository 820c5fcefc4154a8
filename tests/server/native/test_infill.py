"""POST /infill over a fake engine."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from vram_llm.engine.request import Infill
from vram_llm.model.fim_tokens import FimTokens

BODY: dict[str, Any] = {"input_prefix": "def f(x):\n", "input_suffix": "return y\n"}


@pytest.fixture
async def client(engine: FakeEngine, connect: Connect) -> httpx.AsyncClient:
    engine.info = replace(INFO, fim=FimTokens(90, 91, 92))
    return connect()


async def test_texts_around_the_gap(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    extra = [{"filename": "a.py", "text": "one", "time": [1, 2]}, {"text": "two"}]
    body = {**BODY, "input_extra": extra, "prompt": "    y = ", "n_predict": 9, "t_max_predict_ms": 100}
    reply = (await client.post("/infill", json=body)).json()
    assert (reply["content"], reply["stop"]) == ("Hello world", True)
    (request,) = engine.requests
    files = (("a.py", "one"), ("tmp", "two"))
    assert request.infill == Infill(prefix="def f(x):\n", suffix="return y\n", files=files)
    assert (request.prompt, request.max_tokens, request.line_time_s) == ("    y = ", 9, 0.1)


@pytest.mark.parametrize("spm", [False, True])
async def test_the_suffix_first(
    client: httpx.AsyncClient, engine: FakeEngine, connect: Connect, spm: bool
) -> None:
    assert (await connect(spm_infill=spm).post("/infill", json=BODY)).status_code == 200
    assert engine.requests[0].infill == Infill(prefix="def f(x):\n", suffix="return y\n", suffix_first=spm)
    assert engine.requests[0].prompt == ""


async def test_a_stream(client: httpx.AsyncClient) -> None:
    response = await client.post("/infill", json={**BODY, "stream": True})
    assert response.text.count("data: ") == 3
    assert "[DONE]" not in response.text


async def test_a_warm_up_of_llama_vim(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = {
        "input_prefix": "", "input_suffix": "", "input_extra": [], "prompt": "", "n_predict": 0,
        "temperature": 0.0, "stream": False, "samplers": [], "cache_prompt": True,
        "t_max_prompt_ms": 1, "t_max_predict_ms": 1, "response_fields": [""],
    }  # fmt: skip
    response = await client.post("/infill", json=body)
    assert (response.status_code, response.json()) == (200, {})
    assert engine.requests[0].max_tokens == 0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input_prefix": None}, "input_prefix"),
        ({"input_suffix": 5}, "input_suffix"),
        ({"input_extra": {}}, "input_extra"),
        ({"input_extra": [{}]}, "input_extra[0].text"),
        ({"input_extra": [{"filename": "ok"}]}, "input_extra[0].text"),
        ({"input_extra": [{"filename": 123, "text": "abc"}]}, "input_extra[0].filename"),
        ({"input_extra": [{"text": "abc", "other": 1}]}, "input_extra[0].other"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"input_prefix": "x" * (2**21 + 1)}, "input_extra"),
    ],
)
async def test_refused(client: httpx.AsyncClient, change: dict[str, Any], param: str) -> None:
    response = await client.post("/infill", json={**BODY, **change})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_a_model_without_such_tokens(engine: FakeEngine, connect: Connect) -> None:
    engine.info = replace(INFO, fim=FimTokens(prefix=90))
    response = await connect().post("/infill", json=BODY)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (501, "not_supported_error")
    assert "no token for suffix and middle" in error["message"]
    assert engine.requests == []
