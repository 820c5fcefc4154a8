"""Candidates near a plan: each can be planned again, and none changes what the user has set."""

from dataclasses import replace

import pytest

from tests import zoo
from tests.zoo.heads import glm4_moe
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Host, Machine
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.planner.llama_split import placement_of, tensor_placement
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.mtp import AUTO, MTP, NO_DRAFT
from vram_llm.planner.tensor_split import SplitChoice, SplitMode, TensorSplit
from vram_llm.planner.tuning.choice import TunedChoice, choice_of, renamed, workload_of
from vram_llm.planner.tuning.facts import TuneFacts
from vram_llm.planner.tuning.merged import merged
from vram_llm.planner.tuning.proposals import Proposal, proposals, splits, tensor_splits
from vram_llm.planner.types import Context, Placement, Plan, Workload
from vram_llm.units import GIB

HOST = Host(name="desk", cores=8, total_bytes=64 * GIB, available_bytes=60 * GIB)
WISH = Workload(n_ctx=8192, parallel=1, reserve_bytes=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    path = tmp_path_factory.mktemp("models") / "16.gguf"
    zoo.write(zoo.llama(8, 8192, 64, 8, 28672), path, "Q8_0")
    return profile(read_header(str(path)))


def facts(
    model: ModelProfile,
    workload: Workload = WISH,
    rig: str = "RTX 3060 + RTX 4060",
    *,
    compares: bool = False,
    **more: object,
) -> TuneFacts:
    machine: Machine = what_if([rig], HOST)
    plan = make_plan(model, machine, workload, compares=compares)
    return TuneFacts(profile=model, machine=machine, workload=workload, plan=plan, **more)  # type: ignore[arg-type]  # fields of TuneFacts


def names(found: list[Proposal]) -> list[str]:
    return [each.name for each in found]


def test_every_choice_plans_its_candidate_again(model: ModelProfile) -> None:
    own = facts(model)
    for name, choice in list(splits(own))[:4]:
        again = make_plan(model, own.machine, workload_of(own.workload, choice, 8192), compares=False)
        assert choice_of(again.placement, again.context) == choice, name


def test_splits_micro_batches_and_alternatives_take_turns(model: ModelProfile) -> None:
    found = names(proposals(facts(model, compares=True)))
    assert any("GPU0:" in name for name in found[:4])
    assert any(name.startswith("micro-batches") for name in found[:6])
    assert len(found) == len(set(found))


def test_a_choice_that_is_dictated_is_kept(model: ModelProfile) -> None:
    split = replace(WISH, tensor_split=TensorSplit((1, 1)), n_ubatch=256)
    found = proposals(facts(model, split))
    assert not [each for each in found if each.choice.n_ubatch not in (None, 256)]
    assert {each.choice.tensor_split for each in found} <= {
        choice_of(*_placed(facts(model, split))).tensor_split
    }


def test_kv_types_only_if_they_are_allowed(model: ModelProfile) -> None:
    assert {each.choice.kv_type_k for each in proposals(facts(model))} == {"f16"}
    allowed = proposals(facts(model, kv_types=("q8_0",)))
    assert {each.choice.kv_type_k for each in allowed} == {"f16", "q8_0"}


def test_threads_only_if_the_host_computes(model: ModelProfile) -> None:
    assert not [each for each in proposals(facts(model, thread_counts=(4, 8))) if each.choice.n_threads]
    spilled = facts(model, rig="RTX 4060", thread_counts=(4, 7))
    assert {each.choice.n_threads for each in proposals(spilled)} >= {None, 4, 7}


def by_tensors(plan: Plan, *shares: int) -> Plan:
    """A stand-in for the planner's tensor split, which only a dry run finds."""
    ids = [device.id for device in plan.devices]
    return replace(plan, placement=tensor_placement(ids, shares, plan.model.n_layers))


def test_tensor_splits_have_the_planners_shares_and_others(model: ModelProfile) -> None:
    own = facts(model)
    own = replace(own, by_tensors=by_tensors(own.plan, 40, 24))
    found = dict(tensor_splits(own))
    shares = [each.tensor_split for each in found.values()]
    assert shares[:2] == ["GPU0=40,GPU1=24", "GPU0=1,GPU1=1"]
    assert {"GPU0=36,GPU1=28", "GPU0=44,GPU1=20"} <= set(shares)
    wishes = [workload_of(own.workload, each, 8192) for each in found.values()]
    assert {wish.split_mode for wish in wishes} == {SplitChoice.TENSOR}
    assert any(name.startswith("tensors GPU0:") for name in names(proposals(own))[:6])


def test_a_choice_by_tensors_is_not_split_by_layers(model: ModelProfile) -> None:
    own = facts(model)
    plan = by_tensors(own.plan, 1, 1)
    own = replace(own, plan=plan, by_tensors=plan, workload=replace(WISH, split_mode=SplitChoice.TENSOR))
    assert {each.choice.split_mode for each in proposals(own)} == {SplitMode.TENSOR}


def test_a_given_split_is_not_shared_by_tensors(model: ModelProfile) -> None:
    own = facts(model, replace(WISH, tensor_split=TensorSplit((1, 1))))
    assert not list(tensor_splits(replace(own, by_tensors=by_tensors(own.plan, 1, 1))))


@pytest.fixture(scope="module")
def with_head(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    path = tmp_path_factory.mktemp("models") / "head.gguf"
    zoo.write(glm4_moe(8, 8192, 28672), path, "Q8_0")
    return profile(read_header(str(path)))


def test_drafts_are_one_candidate(with_head: ModelProfile) -> None:
    own = facts(with_head)
    drafting = make_plan(with_head, own.machine, replace(WISH, draft=MTP), compares=False)
    own = replace(own, other_draft=drafting, other_draft_name=MTP)
    found, *others = sorted(proposals(own), key=lambda each: each.expected_s)
    assert {each.choice.draft for each in others} == {None}
    assert found.name == "with the MTP head"
    assert workload_of(own.workload, found.choice, 8192).draft == MTP


def test_no_drafts_are_one_candidate(with_head: ModelProfile) -> None:
    wish = replace(WISH, draft=MTP)
    own = facts(with_head, wish)
    plain = make_plan(with_head, own.machine, replace(WISH, draft=NO_DRAFT), compares=False)
    own = replace(own, other_draft=plain, other_draft_name=NO_DRAFT)
    (found,) = (each for each in proposals(own) if each.choice.draft != MTP)
    assert (found.name, found.choice.draft) == ("without drafts", NO_DRAFT)
    assert workload_of(wish, found.choice, 8192).draft == NO_DRAFT


def test_a_choice_without_a_head_means_no_head() -> None:
    choice = choice_of(*_two())
    assert workload_of(replace(WISH, draft=AUTO), choice, 512).draft == NO_DRAFT
    assert workload_of(replace(WISH, draft="small.gguf"), choice, 512).draft == "small.gguf"
    assert workload_of(WISH, choice, 512).draft is None
    assert workload_of(WISH, replace(choice, draft=MTP), 512).draft == MTP


def test_changes_of_two_candidates_are_merged() -> None:
    own = TunedChoice(tensor_split="GPU0=3,GPU1=1", n_ubatch=512)
    split, batch = replace(own, tensor_split="GPU0=2,GPU1=2"), replace(own, n_ubatch=1024)
    both = replace(split, n_ubatch=1024)
    assert merged(own, split, batch) == merged(own, batch, split) == both
    other = replace(own, tensor_split="GPU0=1,GPU1=3", draft=MTP)
    assert merged(own, split, other) == replace(split, draft=MTP)
    assert merged(own, other, split) is None
    assert merged(own, own, split) is None


def test_the_context_stays(model: ModelProfile) -> None:
    own = facts(model)
    for each in proposals(own):
        wish = workload_of(own.workload, each.choice, own.plan.context.n_ctx)
        assert (wish.n_ctx, wish.parallel, wish.use_tuned) == (8192, 1, False)


def test_devices_of_another_name() -> None:
    choice = choice_of(*_two())
    other = renamed(choice, {"GPU0": "GPU1", "GPU1": "GPU0"})
    assert other.tensor_split == "GPU1=1,GPU0=3"
    assert renamed(other, {"GPU0": "GPU1", "GPU1": "GPU0"}) == choice


def _placed(own: TuneFacts) -> tuple[Placement, Context]:
    return own.plan.placement, own.plan.context


def _two() -> tuple[Placement, Context]:
    context = Context(
        n_ctx=512, parallel=1, kv_type_k="f16", kv_type_v="f16", n_batch=512, n_ubatch=512, n_threads=1,
        use_mmap=True, pipeline_copies=True,
    )  # fmt: skip
    return placement_of(["GPU0", "GPU1"], [0, 1, 1, 1]), context
