"""The built-in model in llama.cpp, with many streams: hundreds of short answers take seconds."""

from collections.abc import Iterator
from itertools import count
from typing import Any, Protocol

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import full_steps, loaded, make_request, run, text_of
from vram_llm import demo
from vram_llm.chat.template import ChatTemplate
from vram_llm.engine.loop import Loop
from vram_llm.llama.model import LoadedModel

Chat = list[dict[str, Any]]


class Answers(Protocol):
    """What is said to each chat, with each its own tools or none, always taking the likeliest token."""

    def __call__(self, chats: list[Chat], tools: list[Any] | None = None, **names: Any) -> list[str]: ...


@pytest.fixture(scope="session")
def model(plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    with loaded(plan_on_cpu(demo.path(), n_ctx=8192, parallel=32)) as model:
        yield model


@pytest.fixture(scope="session")
def answers(model: LoadedModel) -> Answers:
    template = ChatTemplate(model.metadata("tokenizer.chat_template"), "", "")
    loop, numbers = Loop(model), count()

    def answer(chats: list[Chat], tools: list[Any] | None = None, **names: Any) -> list[str]:
        requests = []
        for chat, offered in zip(chats, tools or [None] * len(chats), strict=True):
            prompt = template.render(chat, tools=offered, **names)
            name = str(next(numbers))
            requests.append(make_request(name, prompt, max_tokens=120, ignore_eos=False))
        return [text_of(events) for events in run(loop, *requests, steps=full_steps).values()]

    return answer
