"""llama.cpp itself says whether it drafts with a model's MTP head."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.zoo import SMALL
from tests.zoo.heads import HEADS
from tests.zoo.more_heads import MORE_HEADS, exaone_moe, mimo2
from tests.zoo.writer import Model, write
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile
from vram_llm.planner.mtp import llama_refusal, most_drafted, mtp_refusal

pytestmark = pytest.mark.process


def two_blocks() -> Model:
    """A GLM-4.5 with its MTP block twice."""
    model = HEADS["glm4_moe"]()
    n = int(str(model.keys["block_count"]))
    last = f"blk.{n - 1}."
    blocks = {name: shape for name, shape in model.tensors.items() if name.startswith(last)}
    model.tensors |= {f"blk.{n}.{name[len(last) :]}": shape for name, shape in blocks.items()}
    model.keys |= {"block_count": n + 1, "nextn_predict_layers": 2}
    return model


@pytest.fixture(scope="module")
def dry() -> Iterator[DryRun]:
    with DryRun() as dry:
        yield dry


@pytest.mark.parametrize("name", [*HEADS, *MORE_HEADS])
def test_llama_cpp_drafts_with_these_heads_as_the_rules_say(name: str, dry: DryRun, tmp_path: Path) -> None:
    header = read_header(write((HEADS | MORE_HEADS)[name](), tmp_path / "model.gguf"))
    own = profile(header)
    assert mtp_refusal(own) is None
    assert dry.head_refusal(header, most_drafted(own)) is None
    assert llama_refusal(own, None) is None


@pytest.mark.parametrize(
    ("make", "reason", "by_rule"),
    [
        (
            two_blocks,
            "llama.cpp says: GLM4_MOE MTP currently only supports a single MTP block",
            "model has 2 MTP blocks, and llama.cpp computes one of glm4moe models; plan without --draft",
        ),
        (
            exaone_moe,
            "llama.cpp has no graph for MTP heads of exaone-moe models",
            "llama.cpp does not compute MTP heads of exaone-moe models; plan without --draft",
        ),
        (
            SMALL["qwen3next"],
            "llama.cpp cannot take drafted tokens back from states of qwen3next models",
            "qwen3next is recurrent, and llama.cpp cannot take drafted tokens back from states of qwen3next "
            "models; plan without --draft",
        ),
        (
            lambda: mimo2(fused=False),
            "llama.cpp says: MIMO2 MTP requires fused attn_qkv",
            None,  # of the file, not of the architecture
        ),
    ],
)
def test_a_head_that_it_does_not_compute(
    make: Callable[[], Model], reason: str, by_rule: str | None, dry: DryRun, tmp_path: Path
) -> None:
    header = read_header(write(make(), tmp_path / "model.gguf"))
    own = profile(header)
    found = dry.head_refusal(header, most_drafted(own))
    assert found == reason
    assert llama_refusal(own, lambda: found) == (
        f"the MTP head of {own.name} cannot draft: {reason}; plan without --draft"
    )
    assert llama_refusal(own, None) == by_rule


def test_a_model_that_it_refuses_altogether_says_nothing_of_its_head(dry: DryRun, tmp_path: Path) -> None:
    model = HEADS["qwen35"]()
    model.arch = "llama"
    header = read_header(write(model, tmp_path / "model.gguf"))
    assert dry.head_refusal(header, 3) is None
