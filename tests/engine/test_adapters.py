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
from vram_llm.engine.adapters import Adapters
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
FIRST, SECOND = ((0, 1.0),), ((1, 0.5),)  # alone, at the planned scale
CHOICES: list[Adapters | None] = [None, (), FIRST, SECOND]


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


def request(name: str, adapters: Adapters | None, **options: Any) -> Request:
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


def test_requests_have_scales_of_their_own(load: Load, loras: tuple[Lora, Lora]) -> None:
    """Four at once, each as if its adapters were loaded alone at these scales; no two share a prefix."""
    loop = load(*loras, n_ctx=2048, serving=Serving(slots_ram_bytes=2**30))
    prompt = tuple(10 + i * 7 % 300 for i in range(300))
    first, second = (Path(lora.path) for lora in loras)
    scaled: list[Adapters] = [((0, 0.3),), ((0, 0.7),), ((0, -1.5), (1, 0.25)), ((1, 1.0),)]
    together = run(loop, *(request(str(i), each, prompt=prompt) for i, each in enumerate(scaled)))
    answers, model = [], loop._model
    for i, adapters in enumerate(scaled):
        assert together[str(i)][-1].cached_tokens == 0
        alone = [Lora(str((first, second)[number]), scale) for number, scale in adapters]
        answers.append(tokens(run(load(*alone), request("alone", None, prompt=prompt))["alone"]))
        again = run(loop, request("again", adapters, prompt=prompt))["again"]
        assert again[-1].cached_tokens == len(prompt) - 1
        assert tokens(again) == tokens(together[str(i)])
    for adapters, answer_alone, i in zip(scaled, answers, range(4), strict=True):
        model.use_adapters(adapters)
        assert_same(model, prompt, answer_alone, tokens(together[str(i)]))
    assert len({tuple(each) for each in answers}) == len(scaled)


def test_an_adapter_that_is_planned_at_scale_0(load: Load, loras: tuple[Lora, Lora]) -> None:
    """It is loaded, has room in the compute buffers, and a request may turn it on."""
    loop = load(Lora(loras[0].path, 0.0))
    off = tokens(run(loop, request("off", None))["off"])
    assert off == tokens(run(load(), request("without", None))["without"])
    held = loop._model.memory_use()
    on = tokens(run(loop, request("on", FIRST))["on"])
    assert on == tokens(run(load(loras[0]), request("alone", None))["alone"])
    assert on != off
    assert loop._model.memory_use() == held


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
        for adapters in [None, (), FIRST, SECOND, ((2, 1.0),)]
    }
    assert answers[FIRST] == answers[((2, 1.0),)]
    assert len(set(answers.values())) == 4
