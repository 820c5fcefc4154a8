"""Embeddings of images over HTTP: llama-server's objects and OpenAI's parts, refusals, and a real model."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.companions import write_mmproj
from tests.engine.harness import running, write_f32
from tests.pictures import png
from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.live import http_client, listening
from tests.sounds import tone, wav
from vram_llm.engine.request import EmbeddingRequest
from vram_llm.machine.types import Host, Machine
from vram_llm.model.pooling import Pooling
from vram_llm.planner.types import Workload
from vram_llm.server.image_inputs import MAX_IMAGES
from vram_llm.workflows import planning

SEER = replace(INFO, pooling=Pooling.MEAN, n_pooled=4, takes_images=True)
ONE, OTHER, SOUND = png(1), png(2), wav(tone(440))
IN_BASE64 = [base64.b64encode(each).decode() for each in (ONE, OTHER)]
SOUND_IN_BASE64 = base64.b64encode(SOUND).decode()
URL = f"data:image/png;base64,{IN_BASE64[0]}"
PART = {"type": "image_url", "image_url": {"url": URL}}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(info=SEER)


def text(given: str) -> dict[str, str]:
    return {"type": "text", "text": given}


def native(prompt: str, *files: str) -> dict[str, Any]:
    return {"prompt_string": prompt, "multimodal_data": list(files)}


def seen(request: EmbeddingRequest) -> list[tuple[Any, list[tuple[int, bytes]]]]:
    """The inputs, and the places and files of their images."""
    found = request.images or ((),) * len(request.inputs)
    return [
        (given, [(image.at, image.data) for image in images])
        for given, images in zip(request.inputs, found, strict=True)
    ]


CASES = {
    "object": (native("ab<__media__>c", IN_BASE64[0]), [("abc", [(2, ONE)])]),
    "two files": (native("<__media__>a<__media__>", *IN_BASE64), [("a", [(0, ONE), (1, OTHER)])]),
    "no file": (native("a"), [("a", [])]),
    "null": ({"prompt_string": "a", "multimodal_data": None}, [("a", [])]),
    "a marker alone is text": ({"prompt_string": "<__media__>"}, [("<__media__>", [])]),
    "parts": ({"content": [text("ab"), PART, text("c")]}, [("abc", [(2, ONE)])]),
    "image alone": ({"content": [PART]}, [("", [(0, ONE)])]),
    "a URL as text": ({"content": [{"type": "image_url", "image_url": URL}]}, [("", [(0, ONE)])]),
    "several": (
        [native("<__media__>a", IN_BASE64[0]), {"content": [text("b"), PART]}, "c", [1, 2]],
        [("a", [(0, ONE)]), ("b", [(1, ONE)]), ("c", []), ((1, 2), [])],
    ),
}


@pytest.mark.parametrize(("given", "expected"), CASES.values(), ids=CASES)
async def test_shapes(client: httpx.AsyncClient, engine: FakeEngine, given: Any, expected: Any) -> None:
    for path, field in (("/v1/embeddings", "input"), ("/embeddings", "content"), ("/embedding", "input")):
        reply = await client.post(path, json={field: given})
        assert reply.status_code == 200, reply.text
        assert seen(engine.embedded[-1]) == expected


async def test_the_servers_own_marker(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    marker = (await client.get("/props")).json()["media_marker"]
    await client.post("/embeddings", json={"content": native(f"a{marker}b", IN_BASE64[0])})
    assert seen(engine.embedded[0]) == [("ab", [(1, ONE)])]


async def test_sound(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    part = {"type": "input_audio", "input_audio": {"data": SOUND_IN_BASE64, "format": "wav"}}
    refused = await client.post("/v1/embeddings", json={"input": {"content": [part]}})
    assert (refused.status_code, "served without a projector of sound" in refused.text) == (400, True)
    engine.info = replace(SEER, takes_audio=True)
    given = [{"content": [text("a"), part]}, native("<__media__>b", SOUND_IN_BASE64)]
    assert (await client.post("/v1/embeddings", json={"input": given})).status_code == 200
    assert [[image.is_audio for image in images] for images in engine.embedded[0].images] == [[True], [True]]


async def test_files_below_the_directory_of_images(
    connect: Connect, engine: FakeEngine, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(ONE)
    given = {"content": [{"type": "image_url", "image_url": {"url": "file://a.png"}}]}
    reply = await connect(image_dir=tmp_path).post("/v1/embeddings", json={"input": given})
    assert reply.status_code == 200
    assert seen(engine.embedded[0]) == [("", [(0, ONE)])]


@pytest.mark.parametrize(
    ("given", "param", "sentence"),
    [
        (native("a", IN_BASE64[0]), "input.prompt_string", "has 0 media markers and there are 1 files"),
        (native("<__media__>", "?"), "input.multimodal_data[0]", "is not valid base64"),
        ({**native("a"), "multimodal_data": "a"}, "input.multimodal_data", "must be a list of strings"),
        ({**native("a", IN_BASE64[0]), "prompt_string": [1]}, "input.prompt_string", "must be a string"),
        ({**native("a"), "mood": 1}, "input.mood", "Unrecognized request argument"),
        ({"content": [{"type": "input_video"}]}, "input.content[0]", "is a video"),
        ({"content": [{**PART, "mood": 1}]}, "input.content[0].mood", "Unrecognized request argument"),
        (
            {"content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]},
            "input.content[0].image_url.url",
            "is a web address and this server downloads nothing",
        ),
        (
            [native("<__media__>", IN_BASE64[0])] * (MAX_IMAGES + 1),
            f"input[{MAX_IMAGES}].multimodal_data[0]",
            f"{MAX_IMAGES} is the most",
        ),
    ],
)
async def test_refusals(
    client: httpx.AsyncClient, engine: FakeEngine, given: Any, param: str, sentence: str
) -> None:
    reply = await client.post("/v1/embeddings", json={"input": given})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param
    assert sentence in error["message"]
    assert engine.embedded == []


async def test_truncation_is_of_texts_alone(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = {"input": native("<__media__>", IN_BASE64[0]), "truncate": True}
    refused = await client.post("/v1/embeddings", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "truncate")
    assert (await client.post("/v1/embeddings", json={**body, "truncate": False})).status_code == 200


@pytest.mark.process
async def test_a_real_model(host: Host, tmp_path: Path) -> None:
    """The cases of llama-server's own test test_vision_embeddings_oai_content, with a random projector."""
    path, mmproj = write_f32(tmp_path / "f32.gguf"), write_mmproj(tmp_path / "mmproj.gguf")
    wish = Workload(n_ctx=512, mmproj=str(mmproj), pooling=Pooling.MEAN)
    plan = planning.plan(str(path), Machine(devices=(), host=host), wish)
    given = [
        {"content": [text("What is this: "), PART, text("\n")]},
        native("What is this: <__media__>\n", IN_BASE64[0]),
        native("What is this: <__media__>\n", IN_BASE64[1]),
        "What is this: \n",
    ]
    async with running(plan, "seer") as engine, listening(engine) as url, http_client(url) as client:
        reply = (await client.post("/v1/embeddings", json={"input": given})).json()
        bad = await client.post("/v1/embeddings", json={"input": native("<__media__>", "QUJD")})
        card = (await client.get("/v1/models")).json()
    by_parts, by_object, other, plain = (np.array(each["embedding"]) for each in reply["data"])
    np.testing.assert_array_equal(by_parts, by_object)
    for different in (other, plain):
        assert np.abs(by_parts - different).max() > 1e-3
    assert np.linalg.norm(by_parts) == pytest.approx(1)
    assert reply["usage"]["prompt_tokens"] > 3 * 16
    assert bad.status_code == 400
    assert "'input.multimodal_data[0]' cannot be read" in bad.json()["error"]["message"]
    assert card["models"][0]["capabilities"] == ["embedding", "multimodal"]
