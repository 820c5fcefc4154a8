"""The built-in model in llama.cpp, with many streams: hundreds of short answers take seconds."""

from collections.abc import Iterator
from itertools import count
from typing import Any, Protocol

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.turns import full_step
from vram_llm import demo
from vram_llm.chat.template import ChatTemplate
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Request, SamplingParams
from vram_llm.llama.model import LoadedModel

MOST_STEPS = 20_000
Chat = list[dict[str, Any]]


class Answers(Protocol):
    """What is said to each chat, with each its own tools or none, always taking the likeliest token."""

    def __call__(self, chats: list[Chat], tools: list[Any] | None = None, **names: Any) -> list[str]: ...


@pytest.fixture(scope="session")
def model(plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    loaded = LoadedModel(plan_on_cpu(demo.path(), n_ctx=8192, parallel=32))
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def answers(model: LoadedModel) -> Answers:
    template = ChatTemplate(model.metadata("tokenizer.chat_template"), "", "")
    loop, numbers = Loop(model), count()

    def answer(chats: list[Chat], tools: list[Any] | None = None, **names: Any) -> list[str]:
        said = {str(next(numbers)): "" for _ in chats}
        for name, chat, offered in zip(said, chats, tools or [None] * len(chats), strict=True):
            prompt = template.render(chat, tools=offered, **names)
            sampling = SamplingParams(temperature=0)
            assert loop.submit(Request(id=name, prompt=prompt, max_tokens=120, sampling=sampling)) is None
        for _ in range(MOST_STEPS):
            if loop.is_idle:
                return list(said.values())
            for event in full_step(loop):
                said[event.id] += event.text
        raise AssertionError(f"not idle after {MOST_STEPS} steps")

    return answer
