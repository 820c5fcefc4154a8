"""POST /v1/audio/transcriptions: forms, refusals, OpenAI's SDK over a real projector."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from tests.chat.templates import source_of
from tests.companions import write_ears
from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine, fails, says
from tests.server.live import openai_sdk
from tests.server.projector import serving_projector
from tests.sounds import tone, wav
from vram_llm.engine.request import FinishReason, SamplingParams
from vram_llm.errors import RequestError
from vram_llm.machine.types import Host
from vram_llm.server.multipart import MAX_PARTS, form_parts

pytestmark = pytest.mark.process

SOUND = wav(tone(440))
PATH = "/v1/audio/transcriptions"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(says(" Hello", " world"), replace(INFO, takes_audio=True))


async def send(client: httpx.AsyncClient, **fields: str) -> httpx.Response:
    return await client.post(PATH, files={"file": ("a.wav", SOUND, "audio/wav")}, data=fields)


async def test_a_text_and_its_usage(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = await send(client, model="tiny")
    assert reply.json() == {
        "text": "Hello world",
        "finish_reason": "stop",
        "usage": {
            "type": "tokens",
            "input_tokens": 5,
            "output_tokens": 2,
            "total_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0},
        },
    }
    (request,) = engine.requests
    assert isinstance(request.prompt, str)
    (sound,) = request.images
    assert (sound.data, sound.is_audio, sound.field) == (SOUND, True, "file")
    assert request.prompt[: sound.at].endswith("user\nTranscribe audio to text")
    assert request.sampling == SamplingParams(temperature=0, top_k=40, top_p=0.95, min_p=0.05)


async def test_the_fields_of_the_form(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await send(
        client, prompt="Write what you hear", language="de", temperature="0.5", max_tokens="9", seed="3",
        response_format="json", chunking_strategy="auto",
    )  # fmt: skip
    (request,) = engine.requests
    assert "Write what you hear (language: de)" in str(request.prompt)
    assert (request.sampling.temperature, request.max_tokens, request.sampling.seed) == (0.5, 9, 3)


async def test_plain_text(client: httpx.AsyncClient) -> None:
    reply = await send(client, response_format="text")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.text == "Hello world\n"


async def test_a_stream(client: httpx.AsyncClient) -> None:
    reply = await send(client, stream="true")
    assert reply.headers["content-type"].startswith("text/event-stream")
    *deltas, done, rest = reply.text.split("\n\n")
    assert rest == ""
    events = [json.loads(frame.removeprefix("data: ")) for frame in (*deltas, done)]
    assert [event.get("delta") for event in events] == [" Hello", " world", None]
    assert (events[-1]["type"], events[-1]["text"]) == ("transcript.text.done", "Hello world")
    assert events[-1]["usage"]["total_tokens"] == 7


async def test_a_text_that_breaks_off_says_so(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says("Hel", ending=FinishReason.LENGTH)
    assert (await send(client)).json()["finish_reason"] == "length"


async def test_an_error_in_a_stream(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = fails("Hel", error="it broke")
    assert '"message":"it broke"' in (await send(client, stream="true")).text


async def test_lfm2_gets_its_own_instruction(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = replace(INFO, takes_audio=True, chat_template=source_of("LFM2-8B-A1B"))
    assert (await send(client)).status_code == 200
    assert "Perform ASR." in str(engine.requests[0].prompt)
    assert "Transcribe" not in str(engine.requests[0].prompt)


@pytest.mark.parametrize(
    ("fields", "why", "param"),
    [
        ({"response_format": "verbose_json"}, "needs the times or speakers", "response_format"),
        ({"response_format": "srt"}, "needs the times or speakers", "response_format"),
        ({"response_format": "xml"}, "must be 'json', 'text'", "response_format"),
        ({"temperature": "hot"}, "must be a number", "temperature"),
        ({"timestamp_granularities[]": "word"}, "is not supported yet", "timestamp_granularities[]"),
        ({"include[]": "logprobs"}, "is not supported yet", "include[]"),
        ({"speed": "2"}, "Unrecognized", "speed"),
        ({"stream": "perhaps"}, "must be", "stream"),
    ],
)
async def test_refused(client: httpx.AsyncClient, fields: dict[str, str], why: str, param: str) -> None:
    reply = await send(client, **fields)
    assert reply.status_code == 400
    assert why in reply.json()["error"]["message"]
    assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("content", "content_type", "why"),
    [
        (b"{}", "application/json", "must be a form"),
        (b"", "multipart/form-data", "must be a form"),
        (b"hello", "multipart/form-data; boundary=x", "breaks off"),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc',
            "multipart/form-data; boundary=x",
            "breaks off",
        ),
        (b"--x\r\nabc\r\n--x--\r\n", "multipart/form-data; boundary=x", "has no headers"),
        (b"--x\r\nA: b\r\n\r\nabc\r\n--x--\r\n", "multipart/form-data; boundary=x", "has no name"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", "'file'"),
        (b"--x\r\n" * (MAX_PARTS + 9), "multipart/form-data; boundary=x", f"more than {MAX_PARTS} fields"),
    ],
)
async def test_broken_forms(client: httpx.AsyncClient, content: bytes, content_type: str, why: str) -> None:
    reply = await client.post(PATH, content=content, headers={"content-type": content_type})
    assert reply.status_code == 400
    assert why in reply.json()["error"]["message"]


def test_a_file_of_any_bytes() -> None:
    data = bytes(range(256)) + b"\r\n--other\r\n\r\n"
    body = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a b.wav"\r\n\r\n' + data
    body += b"\r\n--x\r\nContent-Disposition: form-data; name=model\r\n\r\nm\r\n--x--\r\nepilogue"
    file, model = form_parts(body, 'multipart/form-data; charset=utf-8; boundary="x"')
    assert (file.name, file.filename, file.data) == ("file", "a b.wav", data)
    assert (model.name, model.filename, model.text()) == ("model", None, "m")
    with pytest.raises(RequestError, match="not text"):
        file.text()


async def test_a_model_that_does_not_hear(connect: Connect, engine: FakeEngine) -> None:
    engine.info = INFO
    reply = await send(connect())
    assert reply.status_code == 400
    assert "does not hear" in reply.json()["error"]["message"]


# -- a real projector ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sdk(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    mmproj = write_ears(tmp_path_factory.mktemp("ears") / "mmproj.gguf", kind="qwen2a")
    with serving_projector(mmproj, host) as url, openai_sdk(url) as client:
        yield client


def test_the_openai_sdk(sdk: openai.OpenAI) -> None:
    create: Any = sdk.audio.transcriptions.create
    wanted: Any = {"model": "whisper-1", "extra_body": {"max_tokens": 12}}
    whole = create(file=("a.wav", SOUND), **wanted)
    assert whole.usage.input_tokens > 750
    events = list(create(file=("a.wav", SOUND), stream=True, **wanted))
    assert events[-1].type == "transcript.text.done"
    assert "".join(event.delta for event in events[:-1]).strip() == events[-1].text == whole.text
    assert create(file=("a.wav", SOUND), response_format="text", **wanted) == whole.text + "\n"
    with pytest.raises(openai.BadRequestError, match="'file' cannot be read: it is no WAV, MP3 or FLAC"):
        create(file=("a.ogg", b"OggS and so on"), **wanted)
