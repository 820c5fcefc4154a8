"""Images and an MTP head: requests with images get no drafts, and the head changes no answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.companions import write_mmproj
from tests.engine.harness import EXACT, empty, loaded, make_request, run, tokens_of
from tests.engine.test_images import seen
from tests.pictures import png
from tests.zoo.heads import HEADS
from tests.zoo.loadable import with_vocabulary, write_loadable
from vram_llm.engine.loop import Loop
from vram_llm.engine.speculative.draft_budget import DraftCostModel
from vram_llm.errors import BadPlan, ModelFileError
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.types import Host, Machine
from vram_llm.planner.mtp import AUTO, MTP
from vram_llm.planner.types import Plan, Workload
from vram_llm.workflows import planning

pytestmark = pytest.mark.process

SECTIONS = "rope.dimension_sections"
TEXT = "Some text without a picture, of which the head may draft"


def write_with_projector(folder: Path, architecture: str, sections: list[int] | None) -> tuple[Path, Path]:
    shape = with_vocabulary(HEADS[architecture]())
    shape.keys.pop(SECTIONS, None)
    if sections is not None:
        shape.keys[SECTIONS] = sections
    model = write_loadable(shape, folder / "model.gguf", "F32")
    n_embd = shape.keys["embedding_length"]
    assert isinstance(n_embd, int)
    return model, write_mmproj(folder / "mmproj.gguf", kind="mlp", n_text=n_embd)


def planned(model: Path, mmproj: Path, host: Host, draft: str | None) -> Plan:
    wish = Workload(
        n_ctx=2048, parallel=2, reserve_bytes=0, n_batch=64, n_ubatch=32, mmproj=str(mmproj), draft=draft,
        **EXACT,
    )  # fmt: skip
    return planning.plan(str(model), Machine(devices=(), host=host), wish)


def answers(plan: Plan) -> Iterator[tuple[dict[str, list[int]], int]]:
    """Tokens of answers to a picture, then to two and a text at once, then to the text; drafted tokens."""
    with loaded(plan) as model:
        loop = Loop(model)
        text = make_request("text", TEXT, max_tokens=16)
        for requests in (
            [seen("one", png(1), max_tokens=16)],
            [seen("two", png(2), max_tokens=16), text, seen("three", png(1), max_tokens=16)],
            [make_request("again", TEXT, max_tokens=16)],
        ):
            found = run(loop, *requests)
            assert not [event.error for events in found.values() for event in events if event.error]
            yield {name: tokens_of(events) for name, events in found.items()}, drafted(loop, model)
        empty(loop)


def drafted(loop: Loop, model: LoadedModel) -> int:
    return loop.stats().n_model_drafted_tokens if model.mtp_head is not None else 0


def test_answers_are_those_without_a_head(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DraftCostModel, "length", lambda _self, _rate, most: min(most, 3))
    files = write_with_projector(tmp_path, "qwen35", [8, 12, 12, 0])
    plain = list(answers(planned(*files, host, None)))
    with_head = list(answers(planned(*files, host, MTP)))
    assert [tokens for tokens, _ in with_head] == [tokens for tokens, _ in plain]
    n_drafted = [n for _, n in with_head]
    assert n_drafted[0] == 0 < n_drafted[1] < n_drafted[2]


@pytest.mark.parametrize("sections", [None, [0, 0, 0, 0]])
def test_a_file_whose_images_would_end_the_engine_is_refused(
    host: Host, tmp_path: Path, sections: list[int] | None
) -> None:
    files = write_with_projector(tmp_path, "glm4_moe", sections)
    with pytest.raises(ModelFileError, match=r"takes no images: .* no glm4moe\.rope\.dimension_sections"):
        planned(*files, host, None)


def test_a_head_whose_drafts_would_end_the_engine_is_refused(host: Host, tmp_path: Path) -> None:
    files = write_with_projector(tmp_path, "glm4_moe", [8, 12, 12, 0])
    with pytest.raises(BadPlan, match=r"M-RoPE.* ends at the first token .* drafts; plan without --draft"):
        planned(*files, host, MTP)
    assert planned(*files, host, AUTO).context.n_mtp == 0


def test_glm_answers_about_images_without_its_head(host: Host, tmp_path: Path) -> None:
    files = write_with_projector(tmp_path, "glm4_moe", [8, 12, 12, 0])
    assert all(tokens for tokens, _ in answers(planned(*files, host, None)))
