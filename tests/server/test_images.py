"""Images over HTTP: a table of refusals, and whole requests with a real projector."""

import base64
import os
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.companions import write_mmproj
from tests.pictures import png, png_of
from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.live import anthropic_sdk, openai_sdk
from tests.server.projector import first_logprobs, serving_projector
from vram_llm.machine.types import Host
from vram_llm.server import image_inputs
from vram_llm.server.image_inputs import MAX_IMAGE_BYTES, MAX_IMAGES
from vram_llm.server.responses import store

pytestmark = pytest.mark.process

CATS = png(1)


def data_url(picture: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def chat(*urls: object, **more: object) -> dict[str, Any]:
    """A body for chat completions: some text, images, some text."""
    images = [{"type": "image_url", "image_url": {"url": url, **more}} for url in urls]
    parts = [{"type": "text", "text": "What is"}, *images, {"type": "text", "text": "this?"}]
    return {"model": "", "messages": [{"role": "user", "content": parts}]}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(info=replace(INFO, takes_images=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that may be read, with a secret beside it."""
    allowed = tmp_path / "allowed"
    (allowed / "deep").mkdir(parents=True)
    (allowed / "cat.png").write_bytes(CATS)
    (allowed / "deep" / "a cat.png").write_bytes(CATS)
    (allowed / "localhost.png").write_bytes(CATS)
    (tmp_path / "secret.png").write_bytes(png(2))
    (allowed / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(allowed / "pipe.png")
    with (allowed / "large.png").open("wb") as stream:
        stream.truncate(MAX_IMAGE_BYTES + 1)
    return allowed


async def asked(client: httpx.AsyncClient, engine: FakeEngine, body: dict[str, Any]) -> Any:
    reply = await client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return engine.requests[-1]


async def test_an_image_keeps_its_place_in_the_text(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    request = await asked(client, engine, chat(data_url(CATS), data_url(png(2)), detail="low"))
    at = request.prompt.index("What is") + len("What is")
    assert request.prompt[at:].startswith("this?")  # no line breaks around images
    assert [(image.at, image.data) for image in request.images] == [(at, CATS), (at, png(2))]


async def test_a_mark_in_the_users_own_text_is_text(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = chat(data_url(CATS))
    body["messages"][0]["content"][0]["text"] = "<__media__> [image 0123] <image>"
    request = await asked(client, engine, body)
    assert "<__media__> [image 0123] <image>" in request.prompt
    assert len(request.images) == 1


ALLOWED = ["cat.png", "deep/a%20cat.png", "deep/../cat.png", "/{folder}/cat.png"]
ALLOWED += ["localhost.png", "localhost/{folder}/cat.png"]


@pytest.mark.parametrize("url", ALLOWED)
async def test_a_file_that_is_allowed(connect: Connect, engine: FakeEngine, folder: Path, url: str) -> None:
    client = connect(image_dir=folder)
    url = url.format(folder=str(folder).lstrip("/"))
    request = await asked(client, engine, chat(f"file://{url}"))
    assert request.images[0].data == CATS


REFUSED = [
    ("http://example.com/cat.png", "downloads nothing"),
    ("HTTPS://example.com/cat.png", "downloads nothing"),
    ("ftp://example.com/cat.png", "must be a data: URL"),
    ("cat.png", "must be a data: URL"),
    ("", "must be a data: URL"),
    (None, "must be a string"),
    (3, "must be a string"),
    ("data:text/plain;base64,aGk=", "must be a data: URL"),
    ("data:image/png,abc", "must be a data: URL"),
    ("data:image/png;base64,a!b=", "is not valid base64"),
    ("data:image/png;base64,abc", "is not valid base64"),
    (data_url(b"x" * (MAX_IMAGE_BYTES + 3)), f"{MAX_IMAGE_BYTES:,} is the most"),
    ("file://../secret.png", "lies outside"),
    ("file:///etc/passwd", "lies outside"),
    ("file://localhost/etc/passwd", "lies outside"),
    ("file://%2e%2e/secret.png", "lies outside"),
    ("file://link.png", "lies outside"),
    ("file://pipe.png", "is no file"),
    ("file://deep", "is no file"),
    ("file://none.png", "is no file"),
    ("file://large.png", f"{MAX_IMAGE_BYTES + 1:,} bytes; {MAX_IMAGE_BYTES:,} is the most"),
    ("file://a%00b", "cannot be read"),
    ("file://" + "a" * 5000, "cannot be read"),
]


@pytest.mark.parametrize(("url", "why"), REFUSED, ids=[str(url)[:40] for url, _ in REFUSED])
async def test_refused(connect: Connect, folder: Path, url: object, why: str) -> None:
    reply = await connect(image_dir=folder).post("/v1/chat/completions", json=chat(url))
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "messages[0].content[1].image_url.url"
    assert why in reply.json()["error"]["message"]


async def test_images_that_are_too_many_bytes_together(
    connect: Connect, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_inputs, "MAX_IMAGES_BYTES", 3 * len(CATS) - 1)
    body = chat(data_url(CATS), "file://cat.png", "file://cat.png")
    reply = await connect(image_dir=folder).post("/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "messages[0].content[3].image_url.url"
    assert f"{3 * len(CATS):,} bytes; {3 * len(CATS) - 1:,} is the most together" in reply.text


async def test_other_refusals(connect: Connect, client: httpx.AsyncClient, engine: FakeEngine) -> None:
    bodies = {
        "--image-dir": chat("file://cat.png"),
        f"is file {MAX_IMAGES + 1}; {MAX_IMAGES} is the most": chat(*[data_url(CATS)] * (MAX_IMAGES + 1)),
        "must be one of auto, low": chat(data_url(CATS), detail="sharp"),
        "send text; images and sound only in a user's message": {
            "model": "", "messages": [{"role": "assistant", "content": chat("x")["messages"][0]["content"]}],
        },
        "choices over these images": chat(data_url(b"x" * 1_500_000)) | {"n": 100},
    }  # fmt: skip
    for why, body in bodies.items():
        reply = await client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 400, why
        assert why in reply.json()["error"]["message"]
    reply = await client.post("/apply-template", json=chat(data_url(CATS)))
    assert reply.status_code == 400
    engine.info = INFO
    reply = await client.post("/v1/chat/completions", json=chat(data_url(CATS)))
    assert reply.status_code == 400
    assert "--mmproj" in reply.json()["error"]["message"]


async def test_a_template_that_leaves_images_out(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = replace(INFO, takes_images=True, chat_template="{{ messages | length }} of them")
    reply = await client.post("/v1/chat/completions", json=chat(data_url(CATS)))
    assert reply.status_code == 400
    assert "leaves out message 1" in reply.json()["error"]["message"]


async def test_a_template_that_reads_parts(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}:{% for p in m.content %}"
        "{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}\n{% endfor %}"
    )
    engine.info = replace(INFO, takes_images=True, chat_template=template)
    request = await asked(client, engine, chat(data_url(CATS)))
    assert request.prompt == "user:What isthis?"
    assert request.images[0].at == len("user:What is")


async def test_a_stored_response_keeps_its_images(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    image = {"type": "input_image", "image_url": data_url(CATS), "detail": "auto"}
    messages = [{"role": "user", "content": [{"type": "input_text", "text": "Look:"}, image]}]
    first = (await client.post("/v1/responses", json={"model": "", "input": messages})).json()
    body = {"model": "", "input": "And now?", "previous_response_id": first["id"]}
    assert (await client.post("/v1/responses", json=body)).status_code == 200
    one, two = engine.requests
    assert one.images[0].data == two.images[0].data == CATS
    at = one.images[0].at
    assert two.prompt[:at] == one.prompt[:at]


async def test_images_of_a_chain_are_counted_once(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_CHARS", 250_000)
    chain: list[str] = []
    for value in b"aaaab":  # four of one chain, then another
        image = {"type": "input_image", "image_url": data_url(bytes([value]) * 100_000)}
        messages = [{"role": "user", "content": [image]}]
        more = {"previous_response_id": chain[-1]} if chain and value == ord("a") else {}
        given = "And now?" if more else messages
        reply = await client.post("/v1/responses", json={"model": "", "input": given, **more})
        chain.append(reply.json()["id"])
    found = [(await client.get(f"/v1/responses/{each}")).status_code for each in chain]
    assert found == [200] * 5
    body = {"model": "", "input": [{"role": "user", "content": [image]}]}
    last = (await client.post("/v1/responses", json=body)).json()["id"]
    found = [(await client.get(f"/v1/responses/{each}")).status_code for each in (*chain, last)]
    assert found == [404] * 4 + [200] * 2, "the image goes with the last that has it"


async def test_anthropic_blocks(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(CATS).decode()}
    picture = {"type": "image", "source": source}
    call = {"type": "tool_use", "id": "c", "name": "look", "input": {}}
    messages = [
        {"role": "user", "content": [picture, {"type": "text", "text": "Here."}]},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [picture]}]},
    ]
    body = {"model": "", "max_tokens": 5, "messages": messages}
    assert (await client.post("/v1/messages", json=body)).status_code == 200
    assert [image.data for image in engine.requests[-1].images] == [CATS, CATS]
    counted = await client.post("/v1/messages/count_tokens", json={"model": "", "messages": messages})
    assert counted.json()["input_tokens"] == len(engine.requests[-1].prompt) + 2 + 1
    for source, why in (
        (
            {"type": "url", "url": "https://example.com/cat.png"},
            "send the image itself in a source of type 'base64'",
        ),
        ({"type": "base64", "media_type": "image/tiff"}, "image/gif, image/webp, image/bmp"),
        ({"type": "file", "file_id": "f"}, "must be 'base64'"),
        ({"type": "base64", "media_type": "image/png"}, "must be a string"),
    ):
        messages = [{"role": "user", "content": [{"type": "image", "source": source}]}]
        reply = await client.post("/v1/messages", json=body | {"messages": messages})
        assert reply.status_code == 400
        assert why in reply.json()["error"]["message"]


# -- a real projector ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base_url(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    mmproj = write_mmproj(tmp_path_factory.mktemp("eyes") / "mmproj.gguf")
    with serving_projector(mmproj, host) as url:
        yield url


@pytest.fixture
def sdk(base_url: str) -> Iterator[openai.OpenAI]:
    with openai_sdk(base_url) as client:
        yield client


def test_the_openai_sdk(sdk: openai.OpenAI) -> None:
    one, usage = first_logprobs(sdk, chat(data_url(png(1))))
    again, reused = first_logprobs(sdk, chat(data_url(png(1))))
    other, _ = first_logprobs(sdk, chat(data_url(png(2))))
    assert one == pytest.approx(again, abs=1e-4)
    assert other != pytest.approx(one, abs=1e-2)
    without = sdk.chat.completions.create(**chat(), max_tokens=1)
    assert without.usage is not None
    assert usage.prompt_tokens >= without.usage.prompt_tokens + 16 - 1  # its rows; one line break less
    assert reused.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_a_jpeg_and_several_choices(sdk: openai.OpenAI) -> None:
    picture = (resources.files("llm_comply") / "specs" / "test_image.jpg").read_bytes()
    reply = sdk.chat.completions.create(
        **chat(data_url(picture, "image/jpeg"), data_url(CATS)), n=3, max_tokens=4
    )
    assert len(reply.choices) == 3
    assert reply.usage is not None
    assert reply.usage.prompt_tokens > 32


def test_a_stream_during_a_broken_image(sdk: openai.OpenAI) -> None:
    hello: Any = [{"role": "user", "content": "hello"}]
    with sdk.chat.completions.create(
        model="", messages=hello, stream=True, max_tokens=60, extra_body={"ignore_eos": True}
    ) as stream:
        next(iter(stream))
        for picture, why in (
            (b"not a picture", "is no PNG"),
            (png(1)[:70], "damaged"),
            (png_of(9000, 9000, b""), "9,000 x 9,000 pixels"),
        ):
            for streamed in (False, True):
                with pytest.raises(openai.BadRequestError, match=why) as refused:
                    sdk.chat.completions.create(**chat(data_url(picture)), stream=streamed)
                assert refused.value.param == "messages[0].content[1].image_url.url"
        assert list(stream)[-1].choices[0].finish_reason == "length"


def test_responses(sdk: openai.OpenAI) -> None:
    content: Any = [
        {"type": "input_text", "text": "Look"},
        {"type": "input_image", "image_url": data_url(CATS), "detail": "auto"},
    ]
    first = sdk.responses.create(model="", input=[{"role": "user", "content": content}], max_output_tokens=5)
    assert first.usage is not None
    then = sdk.responses.create(model="", input="And?", previous_response_id=first.id, max_output_tokens=5)
    assert then.usage is not None
    assert then.usage.input_tokens > first.usage.input_tokens
    assert then.usage.input_tokens_details.cached_tokens > 16


def test_the_anthropic_sdk(base_url: str) -> None:
    import anthropic  # not above: it takes two seconds to load, in each process of pytest-xdist

    source: Any = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(CATS).decode()}
    messages: Any = [
        {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "So?"}]}
    ]
    with anthropic_sdk(base_url) as client:
        counted = client.messages.count_tokens(model="", messages=messages)
        reply = client.messages.create(model="", max_tokens=5, messages=messages)
        usage = reply.usage
        assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == counted.input_tokens
        messages[0]["content"][0]["source"] = {**source, "data": base64.b64encode(b"x").decode()}
        with pytest.raises(anthropic.BadRequestError, match="is no PNG"):
            client.messages.count_tokens(model="", messages=messages)
        with pytest.raises(anthropic.BadRequestError, match="is no PNG"):
            client.messages.create(model="", max_tokens=5, messages=messages)
