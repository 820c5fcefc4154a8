"""Which sampling applies: the request's, the flags', the model file's, llama-server's."""

from dataclasses import replace
from typing import Any

import pytest

from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from vram_llm.engine.request import Request, SamplingParams
from vram_llm.engine.sampling.choose_sampler import device_sampler_config
from vram_llm.engine.sequence import DeviceSamplerConfig
from vram_llm.server.config import ServerConfig
from vram_llm.server.sampling_defaults import default_sampling

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
OF_LLAMA_SERVER = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
FILE = (("temperature", 0.6), ("top_k", 20), ("repeat_penalty", 1.1))


@pytest.mark.parametrize(
    ("file", "flags", "fields", "wanted"),
    [
        ((), {}, {}, OF_LLAMA_SERVER),
        (FILE, {}, {}, {**OF_LLAMA_SERVER, **dict(FILE)}),
        (FILE, {"top_k": 0, "seed": 7}, {},
         {**OF_LLAMA_SERVER, "temperature": 0.6, "repeat_penalty": 1.1, "top_k": 0, "seed": 7}),
        (FILE, {"top_k": 0}, {"top_k": 5, "temperature": 0},
         {**OF_LLAMA_SERVER, "temperature": 0, "repeat_penalty": 1.1, "top_k": 5}),
        ((), {"min_p": 0.2}, {"min_p": None, "top_p": 1}, {**OF_LLAMA_SERVER, "min_p": 0.2, "top_p": 1}),
        ((), {}, {"top_k": -1}, {**OF_LLAMA_SERVER, "top_k": 0}),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", CHAT),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {**CHAT, "max_tokens": 5}),
    ],
)
async def test_order(
    connect: Connect,
    engine: FakeEngine,
    route: str,
    body: dict[str, Any],
    file: tuple[tuple[str, float], ...],
    flags: dict[str, float],
    fields: dict[str, Any],
    wanted: dict[str, Any],
) -> None:
    engine.info = replace(INFO, sampling=file)
    reply = await connect(sampling=flags).post(route, json={**body, **fields})
    assert reply.status_code == 200
    assert engine.requests[0].sampling == SamplingParams(**wanted)


def test_the_device_takes_the_default() -> None:
    request = Request(id="a", prompt="x", sampling=default_sampling(INFO, ServerConfig()))
    assert device_sampler_config(request, 100_000) == DeviceSamplerConfig(0.8, 40, 0.95, 0.05)


async def test_props(connect: Connect, engine: FakeEngine) -> None:
    engine.info = replace(
        INFO, sampling=FILE, chat_template="{{ 1 }}", tool_template="{{ 2 }}", takes_images=True
    )
    props = (await connect(sampling={"top_k": 3, "seed": 4}).get("/props")).json()
    settings = props.pop("default_generation_settings")
    assert settings["n_ctx"] == 512
    wanted = {**OF_LLAMA_SERVER, "temperature": 0.6, "repeat_penalty": 1.1, "top_k": 3, "seed": 4}
    assert {name: settings["params"][name] for name in wanted} == wanted
    assert props.pop("build_info").startswith("vram-llm ")
    assert props.pop("media_marker").startswith("<__media_")
    assert props == {
        "total_slots": 4,
        "model_alias": "tiny",
        "model_ftype": "",
        "model_path": "/models/tiny-Q8_0.gguf",
        "modalities": {"vision": True, "video": False, "audio": False},
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": True,
        "ui": True,
        "ui_settings": {},
        "cors_proxy_enabled": False,
        "chat_template": "{{ 1 }}",
        "chat_template_tool_use": "{{ 2 }}",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "is_sleeping": False,
    }


async def test_props_are_changed_with_the_flag_alone(connect: Connect) -> None:
    refused = await connect().post("/props", json={})
    assert (refused.status_code, refused.json()["error"]["type"]) == (501, "not_supported_error")
    client = connect(endpoint_props=True)
    assert (await client.get("/props")).json()["endpoint_props"] is True
    assert (await client.post("/props", json={})).json() == {"success": True}
    assert (await client.post("/props", json={"n_ctx": 5})).status_code == 400


async def test_slots_are_off_by_a_flag(connect: Connect) -> None:
    client = connect(endpoint_slots=False)
    assert (await client.get("/slots")).status_code == 501
    assert (await client.get("/props")).json()["endpoint_slots"] is False


@pytest.mark.parametrize(
    ("route", "body", "limits"),
    [
        ("/v1/completions", {"prompt": "x"}, {None: 16, 7: 7, -1: None}),
        ("/v1/chat/completions", CHAT, {None: None, 7: 7, -1: None}),
        ("/v1/responses", {"input": "hi"}, {None: None, 7: 7, -1: None}),
    ],
)
async def test_the_limit_of_requests_without_one(
    connect: Connect, engine: FakeEngine, route: str, body: dict[str, Any], limits: dict[int | None, int]
) -> None:
    for n_predict, limit in limits.items():
        client = connect(n_predict=n_predict)
        assert (await client.post(route, json=body)).status_code == 200
        assert engine.requests[-1].max_tokens == limit
        name = "max_output_tokens" if route.endswith("responses") else "max_tokens"
        await client.post(route, json={**body, name: 3})
        assert engine.requests[-1].max_tokens == 3
    params = (await connect(n_predict=7).get("/props")).json()["default_generation_settings"]["params"]
    assert params["n_predict"] == params["max_tokens"] == 7
