"""Sound over HTTP: a table of refusals, and whole requests with a real projector."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from tests.companions import write_ears
from tests.pictures import png
from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.live import openai_sdk
from tests.server.projector import first_logprobs, serving_projector
from tests.sounds import flac, mp3, tone, wav
from vram_llm.machine.types import Host

pytestmark = pytest.mark.process

SOUND = wav(tone(440))


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def chat(*sounds: object) -> dict[str, Any]:
    """A body for chat completions: some text, sounds, some text."""
    parts = [{"type": "input_audio", "input_audio": sound} for sound in sounds]
    content = [{"type": "text", "text": "What is"}, *parts, {"type": "text", "text": "said?"}]
    return {"model": "", "messages": [{"role": "user", "content": content}]}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(info=replace(INFO, takes_audio=True))


async def test_a_sound_keeps_its_place_in_the_text(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = chat({"data": in_base64(SOUND), "format": "wav"})
    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    (request,) = engine.requests
    assert isinstance(request.prompt, str)
    (sound,) = request.images
    assert request.prompt[: sound.at].endswith("What is")
    assert request.prompt[sound.at :].startswith("said?")
    assert (sound.data, sound.is_audio) == (SOUND, True)
    assert sound.field == "messages[0].content[1].input_audio.data"


async def test_a_data_url(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    """As vLLM's clients send it, and llama-server's."""
    url = f"data:audio/wav;base64,{in_base64(SOUND)}"
    for part in (
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "input_audio", "input_audio": {"data": url}},
    ):
        body = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}]}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        assert engine.requests[-1].images[0].data == SOUND


async def test_sounds_and_images_of_completions(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    """Each file says itself which it is."""
    engine.info = replace(INFO, takes_audio=True, takes_images=True)
    files = [in_base64(SOUND), in_base64(png(1)), in_base64(mp3(2)), in_base64(flac(tone(440)))]
    prompt = {"prompt_string": "<__media__>" * 4 + "?", "multimodal_data": files}
    assert (await client.post("/completion", json={"prompt": prompt})).status_code == 200
    assert [image.is_audio for image in engine.requests[-1].images] == [True, False, True, True]
    engine.info = INFO
    for file, why in ((files[0], "without a projector of sound"), (files[1], "without a projector")):
        prompt = {"prompt_string": "<__media__>?", "multimodal_data": [file]}
        refused = await client.post("/completion", json={"prompt": prompt})
        assert why in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("sound", "why", "param"),
    [
        ({"format": "wav"}, "must be a string in base64", "messages[0].content[1].input_audio.data"),
        ({"data": "@@@"}, "is not valid base64", "messages[0].content[1].input_audio.data"),
        ({"data": "", "speed": 2}, "Unrecognized", "messages[0].content[1].input_audio.speed"),
        ("aGVsbG8=", "must be an object", "messages[0].content[1].input_audio"),
    ],
)
async def test_refused(client: httpx.AsyncClient, sound: object, why: str, param: str) -> None:
    reply = await client.post("/v1/chat/completions", json=chat(sound))
    assert reply.status_code == 400
    assert why in reply.json()["error"]["message"]
    assert reply.json()["error"]["param"] == param


async def test_a_model_that_does_not_hear(connect: Connect, engine: FakeEngine) -> None:
    engine.info = replace(INFO, takes_images=True)
    reply = await connect().post("/v1/chat/completions", json=chat({"data": in_base64(SOUND)}))
    assert "served without a projector of sound" in reply.json()["error"]["message"]


async def test_lists_say_that_it_hears(client: httpx.AsyncClient) -> None:
    modalities = (await client.get("/props")).json()["modalities"]
    assert modalities == {"vision": False, "video": False, "audio": True}
    models = (await client.get("/v1/models")).json()
    assert models["data"][0]["architecture"]["input_modalities"] == ["text", "audio"]
    assert models["models"][0]["capabilities"] == ["completion", "multimodal"]


# -- a real projector ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base_url(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    mmproj = write_ears(tmp_path_factory.mktemp("ears") / "mmproj.gguf")
    with serving_projector(mmproj, host) as url:
        yield url


@pytest.fixture
def sdk(base_url: str) -> Iterator[openai.OpenAI]:
    with openai_sdk(base_url) as client:
        yield client


def of_wav(sound: bytes) -> dict[str, Any]:
    return chat({"data": in_base64(sound), "format": "wav"})


def test_the_openai_sdk(sdk: openai.OpenAI, base_url: str) -> None:
    one, usage = first_logprobs(sdk, of_wav(SOUND))
    again, reused = first_logprobs(sdk, of_wav(SOUND))
    other, _ = first_logprobs(sdk, of_wav(wav(tone(3000))))
    assert one == pytest.approx(again, abs=1e-4)
    assert other != pytest.approx(one, abs=1e-3)
    assert usage.prompt_tokens > 47
    assert reused.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1
    body = chat({"data": in_base64(SOUND)})
    counted = httpx.post(f"{base_url}/chat/completions/input_tokens", json=body).json()["input_tokens"]
    assert counted == usage.prompt_tokens
    with pytest.raises(openai.BadRequestError, match="no WAV, MP3 or FLAC"):
        sdk.chat.completions.create(**chat({"data": in_base64(b"OggS and so on")}))
