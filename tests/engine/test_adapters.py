"""LoRA adapters by request: no batch mixes them, and no prefix is shared between different ones."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.companions import write_lora
from tests.engine.clients import answer
from tests.engine.harness import EXACT, Start, loaded, make_request, run, tokens_of, write_f32
from tests.engine.rounding import assert_same
from tests.patience import soon
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Request, TokenEvent
from vram_llm.machine.types import Host, Machine
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import with_adapters
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.types import Lora, Plan, Serving, Workload
from vram_llm.workflows import detection

Load = Callable[..., Loop]
MakePlan = Callable[..., Plan]

PROMPT = tuple(range(10, 60))
CHOICES: list[tuple[int, ...] | None] = [None, (), (0,), (1,)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_f32(tmp_path_factory.mktemp("adapted") / "f32.gguf")


@pytest.fixture(scope="module")
def loras(path: Path) -> tuple[Lora, Lora]:
    first = write_lora(path.with_name("first.gguf"), path, rank=4)
    second = write_lora(path.with_name("second.gguf"), path, named=("attn_v", "ffn_down"))
    return Lora(str(first)), Lora(str(second), 0.5)


@pytest.fixture
def plan(path: Path, host: Host) -> MakePlan:
    """Makes a plan for a tiny model with some adapters."""

    def make(*loras: Lora, n_ctx: int = 1024, serving: Serving = Serving()) -> Plan:  # noqa: B008 - frozen
        profile = with_adapters(detection.analyze(str(path)), [read_header(lora.path) for lora in loras])
        wish = Workload(loras=loras, n_ctx=n_ctx, parallel=4, reserve_bytes=0, serving=serving, **EXACT)
        return make_plan(profile, Machine(devices=(), host=host), wish)

    return make


@pytest.fixture
def load(plan: MakePlan) -> Iterator[Load]:
    """Loads such a plan."""
    with ExitStack() as models:

        def load(*loras: Lora, **options: Any) -> Loop:
            return Loop(models.enter_context(loaded(plan(*loras, **options))))

        yield load


@pytest.fixture
def loop(load: Load, loras: tuple[Lora, Lora]) -> Loop:
    return load(*loras)


def request(name: str, adapters: tuple[int, ...] | None, **options: Any) -> Request:
    return make_request(name, **{"prompt": PROMPT, "max_tokens": 12, "adapters": adapters, **options})


def tokens(events: list[TokenEvent]) -> list[int]:
    assert events[-1].error is None
    return tokens_of(events)


def test_each_adapter_answers_as_if_loaded_alone(loop: Loop, load: Load, loras: tuple[Lora, Lora]) -> None:
    together = run(loop, *(request(str(i), adapters) for i, adapters in enumerate(CHOICES)))
    answers, model = [], load(*loras)._model
    for i, alone in enumerate([loras, (), loras[:1], loras[1:]]):
        answers.append(tokens(run(load(*alone), request("alone", None))["alone"]))
        model.use_adapters(CHOICES[i])
        assert_same(model, PROMPT, answers[-1], tokens(together[str(i)]))
    assert len({tuple(answer) for answer in answers}) == len(CHOICES)


@pytest.mark.parametrize("slots_ram", [0, 2**30])  # kept beside running ones, and moved to the host
def test_prefixes_are_shared_among_requests_of_the_same_adapters_only(
    load: Load, loras: tuple[Lora, Lora], slots_ram: int
) -> None:
    loop = load(*loras, n_ctx=2048, serving=Serving(slots_ram_bytes=slots_ram))
    prompt = tuple(10 + i * 7 % 300 for i in range(300))
    for n_shared in (0, len(prompt) - 1):
        for i, adapters in enumerate(CHOICES):
            name = f"{n_shared} {i}"
            events = run(loop, request(name, adapters, prompt=prompt))[name]
            assert events[-1].cached_tokens == n_shared


def test_a_sequence_is_preempted_for_one_with_other_adapters(load: Load, loras: tuple[Lora, Lora]) -> None:
    loop = load(*loras, n_ctx=256)
    wanted = [request(str(i), adapters, max_tokens=100) for i, adapters in enumerate(CHOICES)]
    crowded = run(loop, *wanted)
    assert loop.stats().n_preemptions > 0
    calm, model = load(*loras), load(*loras)._model
    for each in wanted:
        alone = run(calm, replace(each, id="alone"))["alone"]
        model.use_adapters(each.adapters)
        assert_same(model, PROMPT, tokens(alone), tokens(crowded[each.id]))


@pytest.mark.process
async def test_the_engine_process_reports_their_names(
    start: Start, plan: MakePlan, loras: tuple[Lora, Lora]
) -> None:
    engine = start(plan(*loras, loras[0]))
    assert (await soon(engine.ready())).adapters == ("first", "second", "first-3")
    answers = {
        adapters: tuple(tokens_of(await soon(answer(engine, str(adapters), adapters=adapters))))
        for adapters in [None, (), (0,), (1,), (2,)]
    }
    assert answers[(0,)] == answers[(2,)]
    assert len(set(answers.values())) == 4
