"""The time that steps and prompts wait for the disk."""

import dataclasses
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import machine, profile_of, speed
from vram_llm.machine.types import Fact, Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import resolve_context
from vram_llm.planner.disk.read_times import with_disk
from vram_llm.planner.disk.resident_weights import resident_shares, step_reads, weights_on_host
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import DISK, HOST, Context, Placement, SpeedEstimate, Workload
from vram_llm.units import GIB, MIB

WISH = Workload(n_ctx=4096, parallel=2, n_ubatch=256)


def rig(disk_gb_s: float) -> Machine:
    found = machine([], host_bytes=8 * GIB)
    host = dataclasses.replace(
        found.host, speed=speed(20), disk_bytes_per_s=Fact(disk_gb_s * 1e9, Source.GIVEN)
    )
    return dataclasses.replace(found, host=host)


def in_memory(profile: ModelProfile, on: Machine) -> tuple[Context, Placement, SpeedEstimate]:
    context, placement = resolve_context(profile, on, WISH), placement_from_counts([], [], profile.n_layers)
    return context, placement, Predictor(profile, context, on, WISH)(placement, pipelined=False)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.llama(layers=4), tmp_path_factory.mktemp("dense"))


def test_all_in_memory_waits_for_nothing(dense: ModelProfile) -> None:
    on = rig(2)
    context, placement, plain = in_memory(dense, on)
    assert with_disk(plain, dense, placement, context, on) is plain


@pytest.mark.parametrize("disk_gb_s", [0.5, 4, 1000])
def test_a_step_takes_as_long_as_the_slower_of_disk_and_computation(
    dense: ModelProfile, disk_gb_s: float
) -> None:
    on = rig(disk_gb_s)
    context, placement, plain = in_memory(dense, on)
    context = dataclasses.replace(context, resident_bytes=256 * MIB)
    found = with_disk(plain, dense, placement, context, on)
    weights = weights_on_host(dense, placement)
    read_s = step_reads(weights, resident_shares(weights, 256 * MIB), 1).dense_bytes / (disk_gb_s * 1e9)
    assert found.step_s == pytest.approx(max(read_s, plain.step_s))
    assert found.tokens_per_s == pytest.approx(1 / found.step_s)
    assert [each.id for each in found.devices] == [HOST, DISK]
    assert sum(each.seconds for each in found.devices) == pytest.approx(found.step_s)
    assert sum(each.share for each in found.devices) == pytest.approx(1)


def test_experts_are_read_only_when_they_are_known(tmp_path: Path) -> None:
    moe, on = profile_of(zoo.qwen3_moe(layers=4), tmp_path), rig(1)
    context, placement, plain = in_memory(moe, on)
    weights = weights_on_host(moe, placement)
    dense_bytes = sum(tensor.n_bytes for each in weights for tensor in each.dense)
    found = with_disk(plain, moe, placement, dataclasses.replace(context, resident_bytes=dense_bytes), on)
    used = sum(each.used_bytes(1) for each in weights)
    assert found.step_s == pytest.approx(plain.step_s + used / 1e9)


def test_a_prompt_reads_once_for_each_micro_batch(dense: ModelProfile) -> None:
    on = rig(0.1)
    context, placement, plain = in_memory(dense, on)
    context = dataclasses.replace(context, resident_bytes=0)
    found = with_disk(plain, dense, placement, context, on)
    weights = weights_on_host(dense, placement)
    read_s = step_reads(weights, resident_shares(weights, 0), 1).dense_bytes / 0.1e9
    assert plain.prompt_tokens == 2048
    assert found.prompt_s == pytest.approx(2048 / 256 * read_s)
    assert found.prompt_tokens_per_s == pytest.approx(2048 / (2048 / 256 * read_s))


def test_streams_share_what_is_read(dense: ModelProfile) -> None:
    on = rig(0.1)
    context, placement, plain = in_memory(dense, on)
    found = with_disk(plain, dense, placement, dataclasses.replace(context, resident_bytes=0), on)
    assert found.streams == 2
    assert found.streams_step_s == pytest.approx(found.step_s)
    assert found.streams_tokens_per_s == pytest.approx(2 * found.tokens_per_s)


def test_an_unknown_disk_makes_the_figures_assumed(dense: ModelProfile) -> None:
    on = rig(1)
    on = dataclasses.replace(on, host=dataclasses.replace(on.host, disk_bytes_per_s=None))
    context, placement, plain = in_memory(dense, on)
    found = with_disk(plain, dense, placement, dataclasses.replace(context, resident_bytes=0), on)
    assert (plain.basis, found.basis) == (Source.MEASURED, Source.ASSUMED)
    assert found.prompt_basis is found.streams_basis is Source.ASSUMED
