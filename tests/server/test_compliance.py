"""llm-comply's cases for chats, responses and Anthropic's messages, against a server on the loopback."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.server.fake_engine import FakeEngine, Step, says
from tests.server.live import listening
from tests.server.tool_chat import TALKER
from vram_llm.engine.request import Request

pytestmark = pytest.mark.process

CALL = '{"name": "get_weather", "arguments": {"location": "San Francisco"}}'
LEFT_OUT_MODEL = {"chat-error-handling", "error-handling"}  # no model: they expect a 400
ANTHROPIC = ("--auth-header", "x-api-key", "--no-bearer", "-H", "anthropic-version:2023-06-01")


def obliging(request: Request) -> list[Step]:
    """A model that follows the grammar of a call; else it answers, after thinking if asked to."""
    if request.grammar is not None:
        return list(says(CALL)(request))
    thinks = str(request.prompt).endswith(
        "True"
    )  # then the events' names are OpenAI's, which llm-comply does not know
    return list(says(*(("<think>", "Hm.", "</think>") if thinks else ()), "Four", ".")(request))


@pytest.mark.parametrize(
    ("form", "model", "options"),
    [
        # the names are ones for which no case is skipped
        ("openai-chat", "gpt-5", ()),
        ("open-responses", "gpt-5", ()),
        ("anthropic", "claude-opus", ANTHROPIC),
    ],
)
async def test_every_case_passes(form: str, model: str, options: tuple[str, ...]) -> None:
    engine = FakeEngine(obliging, replace(TALKER, name=model, takes_images=True))
    async with listening(engine, api_keys=("key",)) as url:
        program = str(Path(sys.executable).with_name("llm-comply"))
        arguments = ("-u", f"{url}/v1", "-k", "key", "-m", model, "--format", form, "--json", *options)
        process = await asyncio.create_subprocess_exec(program, *arguments, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
    results = json.loads(output)["results"]
    assert len(results) > 8
    assert {
        r["id"]: r["errors"] for r in results if r["status"] != "passed" and r["id"] not in LEFT_OUT_MODEL
    } == {}
    assert any("image-input" in r["id"] for r in results)
    assert any(request.images for request in engine.requests)
