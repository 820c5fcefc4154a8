"""Models with MTP heads: planned against what is really held, and refused where llama.cpp cannot."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.zoo import SMALL
from tests.zoo.heads import HEADS
from tests.zoo.loadable import write_loadable
from tests.zoo.more_heads import MORE_HEADS
from tests.zoo.writer import write
from vram_llm.errors import BadPlan
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.types import Machine
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.mtp import MTP
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import HOST, FlashAttention, Workload
from vram_llm.workflows import planning

pytestmark = pytest.mark.process


@pytest.mark.parametrize("name", [*HEADS, *MORE_HEADS])
def test_a_head_holds_what_was_planned(name: str, machine: Machine, tmp_path: Path) -> None:
    """Weights, caches, states and compute of both contexts, on workers and on the host."""
    path = write_loadable((HEADS | MORE_HEADS)[name](), tmp_path / "model.gguf")
    facts, pick = profile(read_header(str(path))), random.Random(name)
    with planning.dry_run() as dry:
        for split in ((1.0,), (1.0, 2.0), (2.0, 1.0, 1.0), (1.0, 1.0, 0.0)):
            wish = Workload(
                n_ctx=pick.choice((512, 1024)),
                parallel=pick.choice((1, 4)),
                reserve_bytes=0,
                n_ubatch=pick.choice((64, 256)),
                flash_attn=pick.choice((FlashAttention.ON, FlashAttention.OFF)),
                kv_unified=pick.random() < 0.5,
                use_mmap=False,
                tensor_split=TensorSplit(split),
                n_gpu_layers=facts.n_layers + 1 - pick.choice((0, 2)),
                draft=MTP,
            )
            rig = replace(machine, devices=machine.devices[: len(split)])
            plan = planning.plan(str(path), rig, wish, dry, compares=False)
            assert (plan.estimate.method, plan.context.n_mtp > 0) == ("dry run", True)
            model = LoadedModel(plan)
            held = model.memory_use()
            model.close()
            for use in (*plan.estimate.devices, plan.estimate.host):
                name_of = getattr(use, "id", HOST)
                assert (name_of, held[name_of]) == (name_of, use.use)
            bound = make_plan(facts, rig, wish).estimate
            for use, most in zip(plan.estimate.devices, bound.devices, strict=True):
                assert (use.weights_bytes, use.context_bytes) == (most.weights_bytes, most.context_bytes)
                assert use.compute_bytes <= most.compute_bytes
            assert plan.estimate.host.context_bytes == bound.host.context_bytes
            assert plan.estimate.host.compute_bytes <= bound.host.compute_bytes


def test_without_a_head_less_is_held(machine: Machine, tmp_path: Path) -> None:
    """So that the test above cannot pass by leaving the head out."""
    path = write_loadable(HEADS["qwen35"](), tmp_path / "model.gguf")
    facts, wish = profile(read_header(str(path))), Workload(n_ctx=512, reserve_bytes=0, tensor_split=None)
    rig = replace(machine, devices=machine.devices[:1])
    plain, drafting = (make_plan(facts, rig, each).estimate for each in (wish, replace(wish, draft=MTP)))
    (without,), (with_head,) = plain.devices, drafting.devices
    block = sum(tensor.n_bytes for tensor in facts.layers[-1].tensors)
    assert with_head.weights_bytes - without.weights_bytes >= block
    states = sum(layer.recurrent_state_bytes for layer in facts.layers) * 4
    assert with_head.context_bytes - without.context_bytes == 3 * states + 512 * 2 * 2 * 2 * 64


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("qwen3next", "llama.cpp cannot take drafted tokens back from states of qwen3next models"),
        ("lfm2", "has no MTP head"),
    ],
)
def test_a_model_without_a_head_that_can_draft_is_refused(
    name: str, reason: str, machine: Machine, tmp_path: Path
) -> None:
    path = write(SMALL[name](), tmp_path / "model.gguf")
    with pytest.raises(BadPlan, match=reason):
        planning.plan(str(path), machine, Workload(draft=MTP, reserve_bytes=0))


def test_auto_takes_a_head_that_pays(machine: Machine, tmp_path: Path) -> None:
    """A head of many layers pays, one of few reads too much; a model without a head is planned as before."""
    rig, wish = replace(machine, devices=()), Workload(draft="auto", reserve_bytes=0, n_ctx=512)
    models = {
        "many": HEADS["qwen35"](layers=16),
        "few": HEADS["qwen35"](layers=1),
        "none": SMALL["lfm2"](),
    }
    with planning.dry_run() as dry:
        plans = {
            name: planning.plan(str(write(model, tmp_path / f"{name}.gguf")), rig, wish, dry, compares=False)
            for name, model in models.items()
        }
    assert {name: plan.context.n_mtp for name, plan in plans.items()} == {"many": 3, "few": 0, "none": 0}
    assert "times as fast if 7 in 10 drafts are accepted" in plans["many"].notes[-1]
    assert plans["few"].notes[-1].startswith("no drafts: the MTP head makes the model")
    assert "has no MTP head" in plans["none"].notes[-1]
