"""Plans of models that are larger than the memory: made only when told, and refused in one sentence."""

import dataclasses
import re

import pytest

from tests import zoo
from tests.planner.cases import machine, profile_of, speed
from vram_llm.errors import BadPlan, DoesNotFit
from vram_llm.machine.types import Fact, Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.plan_model import plan_model
from vram_llm.planner.types import DISK, Serving, Workload
from vram_llm.units import GIB, MIB

WISH = Workload(n_ctx=4096, reserve_bytes=512 * MIB)
TOLD = dataclasses.replace(WISH, from_disk=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.llama(), tmp_path_factory.mktemp("model"))


def rig(
    *cards_gib: float, host_gib: float, disk_gb_s: float | None = 3.0, lockable_bytes: int | None = None
) -> Machine:
    found = machine([int(gib * GIB) for gib in cards_gib], host_bytes=int(host_gib * GIB))
    disk = None if disk_gb_s is None else Fact(disk_gb_s * 1e9, Source.GIVEN)
    host = dataclasses.replace(
        found.host, speed=speed(40), disk_bytes_per_s=disk, lockable_bytes=lockable_bytes
    )
    return dataclasses.replace(found, host=host)


def too_small(model: ModelProfile) -> float:
    """GiB of memory that hold some two thirds of the model."""
    return model.total_bytes * 0.67 / GIB


def test_a_model_that_fits_is_planned_as_without_the_flag(model: ModelProfile) -> None:
    roomy = rig(host_gib=model.total_bytes * 2 / GIB)
    told, plain = (plan_model(model, roomy, wish) for wish in (TOLD, WISH))
    assert told == plain
    assert told.disk_reads is None
    assert told.context.resident_bytes is None


def test_without_the_flag_a_refusal_names_it_and_the_speed(model: ModelProfile) -> None:
    small = rig(host_gib=too_small(model))
    with pytest.raises(DoesNotFit) as refused:
        plan_model(model, small, WISH)
    told = plan_model(model, small, TOLD)
    assert told.speed is not None
    way = refused.value.suggestions[-1]
    assert way.flags == ("--from-disk",)
    assert way.tokens_per_s == pytest.approx(told.speed.tokens_per_s, rel=0.02)
    expected = r", or --from-disk \(each token reads [\d.]+ GiB from the disk, [\d.]+ tok/s expected\)$"
    assert re.search(expected, str(refused.value))
    assert "\n" not in str(refused.value)


def test_memory_is_full_and_no_fuller(model: ModelProfile) -> None:
    small = rig(host_gib=too_small(model))
    plan = plan_model(model, small, TOLD)
    host, reads = plan.estimate.host, plan.disk_reads
    assert reads is not None
    assert plan.fits
    assert plan.context.use_mmap
    assert host.budget_bytes == small.host.available_bytes - WISH.reserve_bytes
    assert host.total_bytes <= host.budget_bytes
    assert host.total_bytes > host.budget_bytes - 16 * MIB
    assert host.weights_bytes == pytest.approx(model.total_bytes, rel=1e-3)
    fixed = host.context_bytes + host.compute_bytes
    assert reads.resident_bytes + reads.window_bytes + fixed <= host.budget_bytes
    assert plan.serving.slots_ram_bytes == 0
    assert plan.speed is not None
    assert plan.speed.devices[-1].id == DISK
    assert reads.token_bytes / 3e9 == pytest.approx(plan.speed.step_s, rel=0.01)
    assert any("each token reads" in note and "3 GB/s (given)" in note for note in plan.notes)


def test_memory_for_offloaded_states_is_left(model: ModelProfile) -> None:
    small = rig(host_gib=too_small(model))
    plain = plan_model(model, small, TOLD)
    serving = Serving(slots_ram_bytes=512 * MIB)
    with_slots = plan_model(model, small, dataclasses.replace(TOLD, serving=serving))
    assert plain.context.resident_bytes is not None
    assert with_slots.context.resident_bytes == plain.context.resident_bytes - 512 * MIB


def test_cards_are_filled_first(model: ModelProfile) -> None:
    plan = plan_model(model, rig(4, host_gib=3), TOLD)
    (card,) = plan.estimate.devices
    assert card.total_bytes > 0.9 * card.budget_bytes
    assert plan.context.use_mmap
    assert plan.disk_reads is not None
    assert plan.disk_reads.cyclic_bytes < model.total_bytes


def test_more_memory_means_fewer_reads(model: ModelProfile) -> None:
    reads = []
    for more in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        plan = plan_model(model, rig(host_gib=model.total_bytes * more / GIB), TOLD)
        assert plan.disk_reads is not None
        reads.append(plan.disk_reads.token_bytes)
    assert reads == sorted(reads, reverse=True)
    assert reads[0] - reads[-1] == pytest.approx(0.5 * model.total_bytes, rel=0.01)


def test_a_limit_of_locked_memory_is_named_with_its_remedy(model: ModelProfile) -> None:
    free, limited = (
        plan_model(model, rig(host_gib=too_small(model), lockable_bytes=limit), TOLD)
        for limit in (None, 8 * MIB)
    )
    note = next(note for note in limited.notes if "RLIMIT_MEMLOCK" in note)
    assert re.match(r"8\.00 MiB of the [\d.]+ GiB that stay in memory may be locked there", note)
    assert "ulimit -l unlimited" in note
    assert not any("RLIMIT_MEMLOCK" in note for note in free.notes)
    assert limited.context == free.context


def test_an_assumed_disk_is_said_to_be(model: ModelProfile) -> None:
    plan = plan_model(model, rig(host_gib=too_small(model), disk_gb_s=None), TOLD)
    assert any("the disk's speed is assumed (0.5 GB/s" in note for note in plan.notes)


def test_a_disk_that_is_too_slow_is_refused(model: ModelProfile) -> None:
    crawling = rig(host_gib=too_small(model), disk_gb_s=0.02)
    with pytest.raises(
        DoesNotFit, match=r"the disk is too slow: .* GB/s would do, or [\d.]+ GiB more memory"
    ):
        plan_model(model, crawling, TOLD)
    with pytest.raises(DoesNotFit) as refused:
        plan_model(model, crawling, WISH)
    assert "--from-disk" not in str(refused.value)


def test_a_host_that_is_too_small_is_refused_by_how_much(model: ModelProfile) -> None:
    with pytest.raises(DoesNotFit, match=r"even from the disk: .* is [\d.]+ [MG]iB short .*lower --n-ctx"):
        plan_model(model, rig(host_gib=1), TOLD)


def test_a_file_that_cannot_be_mapped_is_refused(model: ModelProfile) -> None:
    small = rig(host_gib=too_small(model))
    with pytest.raises(BadPlan, match="--no-mmap"):
        plan_model(model, small, dataclasses.replace(TOLD, use_mmap=False))
    odd = dataclasses.replace(model, can_map=False)
    with pytest.raises(BadPlan, match="cannot map"):
        plan_model(odd, small, TOLD)
    with pytest.raises(DoesNotFit) as refused:
        plan_model(odd, small, WISH)
    assert "--from-disk" not in str(refused.value)


def test_an_open_context_is_the_default_one(model: ModelProfile) -> None:
    plan = plan_model(model, rig(host_gib=too_small(model)), dataclasses.replace(TOLD, n_ctx=None))
    assert plan.context.n_ctx == Workload.DEFAULT_N_CTX


def test_what_else_could_be_done_is_counted_with_the_disk_too(model: ModelProfile) -> None:
    plan = plan_model(model, rig(4, host_gib=3), TOLD)
    assert plan.alternatives
    for other in plan.alternatives:
        assert other.context.resident_bytes is not None
        assert other.speed is not None
        assert other.speed.devices[-1].id == DISK
