"""Every example runs, against the built-in model where it asks a server; tests/examples: the modernizer."""

import json
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import zoo
from tests.cli.running import ROOT, run_program
from tests.companions import write_mmproj
from tests.pictures import png
from tests.server.live import Serving, serving
from tools.random_model import write_llama

pytestmark = pytest.mark.process

EXAMPLES = ROOT / "examples"


def run(*command: str | Path) -> str:
    done = run_program(*command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def base_url(demo_server: Serving) -> str:
    return f"{demo_server.url}/v1"


def test_every_example_is_tried_here() -> None:
    text = Path(__file__).read_text()
    assert [
        path.name for path in EXAMPLES.iterdir() if path.stem not in text and path.stem != "__pycache__"
    ] == []


def test_chat_with_the_sdk(base_url: str) -> None:
    said = run(sys.executable, EXAMPLES / "chat.py", "--base-url", base_url, "What is VRAM?")
    assert said.startswith("VRAM is the memory on a graphics card.")
    assert "tokens in" in said


def test_chat_with_curl(base_url: str) -> None:
    said = json.loads(run(EXAMPLES / "chat.sh", "What is VRAM?", base_url))
    assert "graphics card" in said["choices"][0]["message"]["content"]


def test_tools(base_url: str) -> None:
    said = run(sys.executable, EXAMPLES / "tools.py", "--base-url", base_url).splitlines()
    assert said == [
        'get_weather({"city": "Paris"}) = {"city": "Paris", "temperature": 18, "sky": "sunny"}',
        "It is 18 degrees and sunny in Paris.",
    ]


def test_a_call_is_made_through_the_sdk_and_no_grammar_forces_it(demo_server: Serving) -> None:
    tools: Any = [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Weather of a city",
                "parameters": {
                    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]
                },
            },
        }
    ]  # fmt: skip
    chat: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
    reply = demo_server.client.chat.completions.create(
        model="demo", messages=chat, tools=tools, temperature=0
    )
    assert reply.choices[0].finish_reason == "tool_calls"
    (call,) = reply.choices[0].message.tool_calls or []
    assert isinstance(call, openai.types.chat.ChatCompletionMessageFunctionToolCall)
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})


def test_thinking_comes_apart_from_the_answer(demo_server: Serving) -> None:
    chat: Any = [{"role": "user", "content": "What is VRAM?"}]
    message: Any = demo_server.client.chat.completions.create(
        model="demo", messages=chat, temperature=0,
        extra_body={"chat_template_kwargs": {"enable_thinking": True}},
    ).choices[0].message  # fmt: skip
    assert message.reasoning_content.startswith("This is about memory.")
    assert message.content.startswith("VRAM is the memory")


def test_structured(base_url: str) -> None:
    verdict, _, said = run(sys.executable, EXAMPLES / "structured.py", "--base-url", base_url).partition(", ")
    assert verdict in ("buy", "wait")
    assert " GiB: " in said


def test_langchain_chat(base_url: str) -> None:
    said = run(sys.executable, EXAMPLES / "langchain_chat.py", "--base-url", base_url, "What is GGUF?")
    assert said.startswith("GGUF is the file format of llama.cpp")


def test_vision(tmp_path: Path) -> None:
    model, mmproj = write_llama(tmp_path / "model.gguf"), write_mmproj(tmp_path / "mmproj.gguf")
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(1))
    with serving(model, "--mmproj", mmproj, "--n-ctx", "1024", "--image-dir", tmp_path) as running:
        running.await_health()
        url = f"{running.url}/v1"
        said = run(sys.executable, EXAMPLES / "vision.py", "--base-url", url, picture).splitlines()
        file: Any = {"type": "image_url", "image_url": {"url": "file://picture.png"}}
        text: Any = {"type": "text", "text": "What is in this picture?"}
        usage = running.client.chat.completions.create(
            model="", messages=[{"role": "user", "content": [file, text]}], max_tokens=1
        ).usage
    assert usage is not None
    assert said[-1] == f"({usage.prompt_tokens} tokens in, the picture's among them)"
    assert usage.prompt_tokens > 16


def test_embeddings() -> None:
    texts = ("The KV cache grows with the context.", "What is a KV cache?")
    with serving("demo", "--pooling", "mean") as running:
        running.await_health()
        said = run(
            sys.executable, EXAMPLES / "embeddings.py", "--base-url", f"{running.url}/v1",
            "What is a KV cache?", *texts,
        )  # fmt: skip
    assert said.splitlines()[0] == f"1.000  {texts[1]}"
    assert said.splitlines()[1].endswith(texts[0])


def test_uneven_rig(tmp_path: Path) -> None:
    path = zoo.write(zoo.nemotron_49b(), tmp_path / "49b.gguf", shard_bytes=40 * 10**9)
    said = run(sys.executable, EXAMPLES / "uneven_rig.py", path)
    assert said.count("RTX 3090 Ti") == 2
    assert "tensor_split = [" in said


def test_long_context(tmp_path: Path) -> None:
    path = zoo.write(zoo.llama(), tmp_path / "8b.gguf")
    rows = [line.split() for line in run(sys.executable, EXAMPLES / "long_context.py", path).splitlines()[1:]]
    assert [row[0] for row in rows] == ["f16", "q8_0", "q4_0"]
    f16, q8_0, _ = (int(row[1].replace(",", "")) for row in rows)
    assert 100_000 < f16 < q8_0 == 131_072
