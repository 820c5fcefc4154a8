"""The time of a tensor split: the slowest share, and the sums."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import profile_of, speed, with_speeds
from tests.planner.search.test_tensor_search import rig
from vram_llm.machine.types import Machine, Source, SumFacts
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import resolve_context
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.speed import Predictor
from vram_llm.planner.speed_error import EXPERTS_ERROR, TENSOR_ERROR, is_certain
from vram_llm.planner.tensor_speed import TensorPredictor
from vram_llm.planner.types import SpeedEstimate, Workload

WISH = Workload(n_ctx=8192, parallel=1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.llama(), tmp_path_factory.mktemp("8b"))


def by_tensors(llama: ModelProfile, rig: Machine, *shares: float) -> SpeedEstimate:
    ids = tuple(device.id for device in rig.devices)
    predictor = TensorPredictor(llama, resolve_context(llama, rig, WISH), rig, WISH)
    return predictor.of_shares(ids, shares)


def by_layers(llama: ModelProfile, rig: Machine, *counts: int) -> SpeedEstimate:
    placement = placement_from_counts([device.id for device in rig.devices], counts, 32)
    return Predictor(llama, resolve_context(llama, rig, WISH), rig, WISH)(placement, pipelined=False)


def test_two_halves_and_the_sums(llama: ModelProfile) -> None:
    """Without overheads a half takes half of the time on one card."""
    one, two = rig(800), rig(800, 800, sum_us=30)
    alone = by_layers(llama, one, 32).step_s
    found = by_tensors(llama, two, 0.5, 0.5)
    assert found.sums is not None
    assert found.sums.count == 64
    assert found.sums.source is Source.MEASURED
    assert found.step_s == pytest.approx(alone / 2 + 64 * found.sums.seconds, rel=1e-3)


def test_launches_are_not_shared(llama: ModelProfile) -> None:
    plain = rig(800, 800)
    slow = with_speeds(plain, *(speed(800, layer_us=50) for _ in plain.devices))
    more_s = by_tensors(llama, slow, 0.5, 0.5).step_s - by_tensors(llama, plain, 0.5, 0.5).step_s
    assert more_s == pytest.approx(32 * 50e-6)


def test_the_slowest_share_counts(llama: ModelProfile) -> None:
    two = rig(900, 300)
    even, fair = (by_tensors(llama, two, share, 1 - share).step_s for share in (0.5, 0.75))
    assert even == pytest.approx(2 * fair, rel=0.1)


def test_a_range_is_wider_than_that_of_whole_layers(llama: ModelProfile) -> None:
    two = rig(800, 800)
    found, whole = by_tensors(llama, two, 0.5, 0.5), by_layers(llama, two, 16, 16)
    widths = []
    for each in (found, whole):
        likely = each.tokens_per_s_range
        assert likely is not None
        assert likely.low < each.tokens_per_s < likely.high
        widths.append(math.log(likely.high / each.tokens_per_s))
    assert widths[0] == pytest.approx(math.hypot(widths[1], TENSOR_ERROR.own))
    assert found.prompt_tokens_per_s_range is not None


@pytest.mark.parametrize(("factor", "is_sure"), [(1.1, False), (1.2, False), (1.3, True), (0.7, True)])
def test_which_mode_is_faster_for_certain(llama: ModelProfile, factor: float, is_sure: bool) -> None:
    found = by_tensors(llama, rig(800, 800), 0.5, 0.5)
    layers = replace(by_layers(llama, rig(800, 800), 16, 16), step_s=factor * found.step_s)
    assert is_certain(found, layers) is is_sure
    assert is_certain(layers, found) is is_sure
    assert (abs(math.log(factor)) > TENSOR_ERROR.ratio) is is_sure


def test_a_model_with_experts_is_known_less_well(tmp_path: Path) -> None:
    """Published figures of dense models are near; of experts there is one, of an early build."""
    moe = profile_of(zoo.qwen3_moe(), tmp_path)
    measured = rig(800, 800)
    found, known = (by_tensors(moe, two, 0.5, 0.5) for two in (replace(measured, sums=SumFacts()), measured))
    assert found.sums is not None
    assert known.sums is not None
    assert known.sums.error == TENSOR_ERROR.ratio
    assert found.sums.error == EXPERTS_ERROR.ratio > TENSOR_ERROR.ratio
    layers = replace(found, sums=None, step_s=1.4 * found.step_s)
    assert not is_certain(layers, found)
    assert is_certain(replace(layers, step_s=1.6 * found.step_s), found)


def test_unmeasured_sums_make_the_basis_an_estimate(llama: ModelProfile) -> None:
    assert by_tensors(llama, rig(800, 800), 0.5, 0.5).basis is Source.MEASURED
    unmeasured = replace(rig(800, 800), sums=SumFacts())
    assert by_tensors(llama, unmeasured, 0.5, 0.5).basis is Source.ESTIMATED
