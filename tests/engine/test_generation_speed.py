"""Plans are measured by text that the model writes: the same text, with drafts or without."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.zoo.heads import glm4_moe, write_agreeing
from tests.zoo.loadable import with_vocabulary
from vram_llm.engine.generation_prompts import QUESTIONS, GenerationPrompts
from vram_llm.engine.generation_speed import GenerationMeasurement, GenerationRequest, measure_generation
from vram_llm.errors import ModelRefused
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.mtp import MTP
from vram_llm.planner.types import Plan, Workload
from vram_llm.workflows import detection, planning

pytestmark = pytest.mark.process

WISH = Workload(n_ctx=1024, parallel=2, reserve_bytes=0, n_threads=1, n_gpu_layers=0)


@pytest.fixture(scope="module")
def agreeing(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose head predicts its tokens."""
    path = tmp_path_factory.mktemp("models") / "agreeing.gguf"
    return str(write_agreeing(with_vocabulary(glm4_moe(2)), path, sharpness=7))


def planned(model: str, draft: str | None = None) -> Plan:
    return planning.plan(model, detection.detect(), replace(WISH, draft=draft), compares=False)


def measured(plan: Plan, *, streams: int = 1, n_texts: int = 2, n_tokens: int = 24) -> GenerationMeasurement:
    return measure_generation(
        GenerationRequest(
            plan,
            prompt_tokens=48,
            depth=64,
            streams=streams,
            n_texts=n_texts,
            n_tokens=n_tokens,
            first_text=5,
        )
    )


@pytest.mark.parametrize("streams", [1, 2])
def test_a_head_drafts_while_text_is_written(agreeing: str, streams: int) -> None:
    plain, drafting = (
        measured(planned(agreeing), streams=streams),
        measured(planned(agreeing, MTP), streams=streams),
    )
    assert (plain.n_drafted, plain.n_accepted) == (0, 0)
    assert drafting.n_drafted >= drafting.n_accepted
    assert drafting.n_drafted > 0
    for each in (plain, drafting):
        assert each.prompt_tokens == 48
        assert each.load_s > 0
        assert each.prompt_s > 0
        assert each.token_s > 0


def test_a_draft_model_is_loaded_too(agreeing: str, tmp_path: Path) -> None:
    small = str(write_agreeing(with_vocabulary(glm4_moe(1)), tmp_path / "small.gguf", sharpness=7))
    assert measured(planned(agreeing, small)).n_drafted > 0


def test_the_childs_own_error(agreeing: str, tmp_path: Path) -> None:
    plan = planned(agreeing)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(Path(agreeing).read_bytes()[:-4096])
    with pytest.raises(ModelRefused, match=r"cut\.gguf"):
        measured(replace(plan, model=replace(plan.model, path=str(cut), files=())))


def test_prompts_have_their_length_and_their_streams_nothing_in_common(agreeing: str) -> None:
    model = LoadedModel(planned(agreeing))
    prompts = GenerationPrompts(model.vocab)
    try:
        first, again, other = (prompts.prompt(*each) for each in ((0, 500, 1), (0, 500, 2), (1, 500, 1)))
        assert [len(each) for each in (first, again, other, prompts.prompt(3, 9, 1))] == [500, 500, 500, 9]
        assert first[:300] == again[:300] != other[:300]
        text = b"".join(map(model.vocab.piece, first)).decode(errors="replace").replace("\u2581", " ")
        assert text.lstrip().startswith('"""')
        assert QUESTIONS[1] in text
    finally:
        model.close()
