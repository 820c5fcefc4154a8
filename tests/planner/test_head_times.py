"""A model's own MTP head in predicted times: where it is placed, and how much it gains."""

from dataclasses import replace

import pytest

from tests.planner.cases import machine, profile_of, speed, with_speeds
from tests.zoo.heads import HEADS
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import resolve_context
from vram_llm.planner.draft_speed import drafting_gain
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.mtp import EXPECTED_DRAFTED, MTP
from vram_llm.planner.speed import Predictor, output_tensors
from vram_llm.planner.types import Placement, Workload
from vram_llm.units import MIB

WISH = Workload(n_ctx=512, parallel=1, reserve_bytes=0, draft=MTP)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    """Twelve layers, and a vocabulary whose output is as large as three of them."""
    shape = HEADS["qwen35"](layers=12, d=1024, ff=2048, vocab=32000)
    return profile_of(shape, tmp_path_factory.mktemp("head"))


def rig(first_gb_s: float, second_gb_s: float, free_mib: tuple[int, int] = (4096, 4096)) -> Machine:
    cards = machine([n * MIB for n in free_mib])
    return with_speeds(cards, speed(first_gb_s), speed(second_gb_s))


@pytest.mark.parametrize(("speeds", "fast"), [((100, 400), "GPU1"), ((400, 100), "GPU0")])
def test_the_head_and_the_output_are_on_the_faster_card(
    model: ModelProfile, speeds: tuple[int, int], fast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each drafted token reads both once more. Neither card holds all."""
    wish, small = rig(*speeds, (690, 690)), {"GPU0", "GPU1"}
    placement = make_plan(model, wish, WISH).placement
    assert (set(placement.device_order), placement.output_device) == (small, fast)
    assert placement.device_order[-1] == fast
    monkeypatch.setattr(Predictor, "objective_costs", Predictor.decode_costs)
    by_steps_alone = make_plan(model, wish, WISH).placement  # the block seems to cost no time
    assert (set(by_steps_alone.device_order), by_steps_alone.output_device) == (small, *small - {fast})


def test_drafts_take_as_long_as_the_head_and_the_output_are_read(model: ModelProfile) -> None:
    fast = rig(400, 100)
    context = resolve_context(model, fast, WISH)
    predictor = Predictor(model, context, fast, WISH)
    block = sum(tensor.n_bytes for tensor in model.layers[-1].tensors)
    first, then = (
        placement_from_counts(order, [12, 1], model.n_layers)
        for order in (["GPU0", "GPU1"], ["GPU1", "GPU0"])
    )
    output = sum(tensor.n_bytes for tensor in output_tensors(model))

    def drafts_s(placement: Placement) -> float:
        return predictor.step_s(placement, 1, drafts=True) - predictor.step_s(placement, 1)

    read_bytes = EXPECTED_DRAFTED * (block + output)
    assert drafts_s(first) == pytest.approx(read_bytes / 100e9, rel=1e-6)
    assert drafts_s(then) == pytest.approx(read_bytes / 400e9, rel=1e-6)
    plain = Predictor(model, replace(context, n_mtp=0), fast, WISH)
    assert plain.step_s(first, 1, drafts=True) == plain.step_s(first, 1)
    assert plain.step_s(first, 2) == predictor.step_s(first, 2)


def test_a_gain_counts_launches_rows_and_where_the_weights_are(model: ModelProfile) -> None:
    """With seven of ten accepted, eight drafts gain less than 3.2; kernels and slow rows take from that."""

    def gain(*, row_tflops: float = 1000.0, step_us: float = 0.0) -> float:
        card = with_speeds(machine([4096 * MIB]), speed(400, row_tflops=row_tflops, step_us=step_us))
        return drafting_gain(model, card, WISH, make_plan(model, card, WISH))

    assert 1.3 < gain() < 3.2
    assert gain(step_us=500) < gain()
    assert gain(row_tflops=0.05) == 1
