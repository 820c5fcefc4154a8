"""A server on a port whose model has a projector, and the logprobs of its answers by OpenAI's SDK."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

from tests.engine.harness import EXACT, write_f32
from tests.server.live import in_thread, listening_with
from vram_llm.machine.types import Host, Machine
from vram_llm.planner.types import Workload
from vram_llm.workflows import planning


@contextmanager
def serving_projector(mmproj: Path, host: Host) -> Iterator[str]:
    """The base URL of a server with the projector `mmproj` and a tiny model, written to the same folder."""
    wish = Workload(n_ctx=2048, parallel=2, reserve_bytes=0, mmproj=str(mmproj), **EXACT)
    model = write_f32(mmproj.with_name("tiny.gguf"))
    plan = planning.plan(str(model), Machine(devices=(), host=host), wish)
    with in_thread(listening_with(plan, "tiny")) as url:
        yield url


def first_logprobs(sdk: openai.OpenAI, body: dict[str, Any]) -> tuple[list[float], Any]:
    """The five best logprobs of the first token that a greedy answer has, and the answer's usage."""
    reply = sdk.chat.completions.create(**body, max_tokens=3, temperature=0, logprobs=True, top_logprobs=5)
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    return [each.logprob for each in logprobs.content[0].top_logprobs], reply.usage
