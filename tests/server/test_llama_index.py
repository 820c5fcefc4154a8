"""LlamaIndex's OpenAI client, in an environment of its own, against a real server on the loopback."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.server.conftest import listening
from tests.server.fake_engine import FakeEngine, Step, says
from tests.server.tool_chat import PIECES, TALKER
from vram_llm.engine.request import Request

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("VRAM_LLM_CLIENTS_PYTHON", ROOT / ".venv-clients" / "bin" / "python"))


@pytest.mark.skipif(
    not PYTHON.exists(), reason="it wants an OpenAI SDK below 3: `make clients` sets it up apart"
)
async def test_a_chat_with_tools() -> None:
    def script(request: Request) -> list[Step]:
        is_answered = "sun" in str(request.prompt)
        return list(says("Sunny.")(request) if is_answered else says(*PIECES)(request))

    async with listening(FakeEngine(script, TALKER)) as url:
        process = await asyncio.create_subprocess_exec(
            PYTHON, ROOT / "tests" / "server" / "llama_index_client.py", f"{url}/v1",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(said) == {
        "calls": [["get_weather", {"city": "Paris"}], ["now", {}]],
        "said": "One moment.",
        "streamed": "One moment.",
        "streamed_calls": [{"city": "Paris"}, {}],
        "then": "Sunny.",
    }
