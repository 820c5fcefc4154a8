"""Which weights stay in memory, and what a token reads from the file."""

import dataclasses
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import machine, profile_of
from vram_llm.machine.types import Fact, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart, Role, Tensor
from vram_llm.planner.context import resolve_context
from vram_llm.planner.disk.resident_weights import (
    ResidentShares,
    disk_reads,
    resident_shares,
    step_reads,
    weights_on_host,
    window_bytes,
)
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST, Placement, Workload
from vram_llm.units import GIB, MIB

NOTHING = ResidentShares(0.0, 0.0)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.llama(layers=8), tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.qwen3_moe(layers=6), tmp_path_factory.mktemp("moe"))


def on_host(profile: ModelProfile) -> Placement:
    return placement_from_counts([], [], profile.n_layers)


def total(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.n_bytes for tensor in tensors)


def test_everything_but_the_embedding_is_read_for_a_token(dense: ModelProfile) -> None:
    weights = weights_on_host(dense, on_host(dense))
    assert [each.layer for each in weights] == [*range(8), 8]
    assert sum(total(each.dense) for each in weights) == pytest.approx(
        dense.total_bytes - dense.token_embd_bytes, rel=1e-4
    )
    assert weights[-1].dense == dense.output_tensors


def test_a_tied_output_reads_the_whole_embedding(tmp_path: Path) -> None:
    tied = profile_of(zoo.gemma3(), tmp_path)
    assert tied.tied_output
    last = weights_on_host(tied, on_host(tied))[-1]
    assert tied.token_embd_bytes <= total(last.dense)


def test_only_the_hosts_layers_and_moved_parts_count(moe: ModelProfile) -> None:
    placement = placement_from_counts(["GPU0"], [4], 6)  # layers 2 to 5 and the output
    moved = Override.of(LayerPart.EXPERTS, (4,), HOST)
    weights = weights_on_host(moe, dataclasses.replace(placement, overrides=(moved,)))
    assert [each.layer for each in weights] == [0, 1, 4]
    assert total(weights[0].dense) + total(weights[0].experts) == moe.layers[0].bytes
    assert (weights[2].dense, total(weights[2].experts)) == ((), moe.layers[4].expert_bytes)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_the_memory_is_filled_and_the_rest_is_read(dense: ModelProfile, share: float) -> None:
    weights = weights_on_host(dense, on_host(dense))
    everything = sum(each.dense_bytes for each in weights)
    room = int(share * everything)
    resident = resident_shares(weights, room)
    stays = sum(n_bytes for each in weights for _, n_bytes in resident.of(each))
    assert stays == pytest.approx(room, abs=len(weights))
    assert step_reads(weights, resident, 1).dense_bytes == pytest.approx(everything - stays, abs=len(weights))


def test_the_same_share_of_each_layer_stays_so_that_the_disk_never_rests(dense: ModelProfile) -> None:
    weights = weights_on_host(dense, on_host(dense))
    resident = resident_shares(weights, sum(each.dense_bytes for each in weights) // 2)
    for each in weights:
        stays = list(resident.of(each))
        assert [tensor for tensor, _ in stays] == list(each.dense)
        assert sum(n_bytes for _, n_bytes in stays) == pytest.approx(each.dense_bytes / 2, abs=1)
        cut = [tensor for tensor, n_bytes in stays if 0 < n_bytes < tensor.n_bytes]
        assert len(cut) <= 1  # what stays is one run of the file, and so is what is read


def test_dense_weights_stay_before_experts(moe: ModelProfile) -> None:
    weights = weights_on_host(moe, on_host(moe))
    dense = sum(each.dense_bytes for each in weights)
    experts = sum(each.expert_bytes for each in weights)
    assert resident_shares(weights, dense) == ResidentShares(1.0, 0.0)
    more = resident_shares(weights, dense + experts // 4)
    assert more.dense == 1
    assert more.experts == pytest.approx(0.25, rel=1e-6)
    assert resident_shares(weights, dense + experts) == ResidentShares(1.0, 1.0)
    used = moe.n_expert_used / moe.n_expert
    reads = step_reads(weights, more, 1)
    assert reads.dense_bytes == 0
    assert reads.expert_bytes == pytest.approx(0.75 * used * experts, rel=1e-3)


def test_more_tokens_use_more_experts_but_none_twice(moe: ModelProfile) -> None:
    weights = weights_on_host(moe, on_host(moe))
    one, many = (step_reads(weights, NOTHING, rows).expert_bytes for rows in (1, 512))
    assert one < many <= sum(each.expert_bytes for each in weights)


def test_the_window_holds_two_layers(dense: ModelProfile, moe: ModelProfile) -> None:
    weights = weights_on_host(dense, on_host(dense))
    assert window_bytes(weights) == 2 * max(total(each.dense) for each in weights)
    experts = weights_on_host(moe, on_host(moe))[:-1]
    used = moe.n_expert_used / moe.n_expert
    most = max(total(each.dense) + used * total(each.experts) for each in experts)
    assert window_bytes(experts) == pytest.approx(max(2 * most, 64 * MIB), rel=1e-3)


def test_reads_of_a_plan(dense: ModelProfile) -> None:
    rig = machine([], host_bytes=4 * GIB)
    rig = dataclasses.replace(
        rig, host=dataclasses.replace(rig.host, disk_bytes_per_s=Fact(2e9, Source.GIVEN))
    )
    context = resolve_context(dense, rig, Workload(n_ctx=4096))
    placement = on_host(dense)
    assert disk_reads(dense, placement, context, rig) is None
    reads = disk_reads(dense, placement, dataclasses.replace(context, resident_bytes=GIB), rig)
    assert reads is not None
    assert reads.resident_bytes == GIB
    assert reads.cyclic_bytes == pytest.approx(reads.dense_bytes + GIB, abs=1)
    assert (reads.expert_bytes, reads.bytes_per_s) == (0, Fact(2e9, Source.GIVEN))
    assert reads.token_bytes == reads.dense_bytes


def test_experts_are_what_their_role_says(moe: ModelProfile) -> None:
    weights = weights_on_host(moe, on_host(moe))
    assert {tensor.role for each in weights for tensor in each.experts} == {Role.EXPERT}
    assert Role.EXPERT not in {tensor.role for each in weights for tensor in each.dense}
