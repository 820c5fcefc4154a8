"""Both split modes side by side, and what a token waits for."""

from dataclasses import replace

import pytest

from tests import zoo
from tests.planner.cases import profile_of
from tests.planner.search.test_tensor_search import WORKLOAD, exact, rig
from vram_llm.machine.types import Machine, SumFacts
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.report.reasons import why
from vram_llm.planner.report.split_modes import split_modes
from vram_llm.planner.sum_notes import sum_notes
from vram_llm.planner.tensor_split import SplitChoice
from vram_llm.planner.types import Plan
from vram_llm.text.lines import plain


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.llama(), tmp_path_factory.mktemp("8b"))


def planned(llama: ModelProfile, rig: Machine, choice: SplitChoice = SplitChoice.AUTO) -> Plan:
    workload = replace(WORKLOAD, split_mode=choice)
    return make_plan(llama, rig, workload, exact(llama, rig), compares=False)


@pytest.mark.parametrize(("sum_us", "first"), [(20, "by tensors"), (400, "by layers")])
def test_the_chosen_mode_is_the_first_row(llama: ModelProfile, sum_us: float, first: str) -> None:
    plan = planned(llama, rig(800, 800, sum_us=sum_us))
    head, *rows = plain(split_modes(plan, 80)).strip().splitlines()
    assert head.split() == ["split", "tok/s", "nine", "of", "ten", "2k", "prompt", "GiB"]
    assert rows[0].startswith(first)
    assert len(rows) == 2
    assert str(plan).count("by tensors") >= 1


def test_one_mode_has_no_table(llama: ModelProfile) -> None:
    assert split_modes(planned(llama, rig(800, 800), SplitChoice.LAYER), 80) == []


def test_a_note_says_where_the_time_of_a_sum_is_from(llama: ModelProfile) -> None:
    two = rig(800, 800)
    (note,) = sum_notes(planned(llama, two))
    assert "for 64 sums of the devices, 20.8 us each (measured): llama.cpp's own sum of two cards" in note
    assert "calibrate" not in note
    here = replace(two, devices=tuple(replace(card, what_if=False) for card in two.devices), sums=SumFacts())
    (note,) = sum_notes(planned(llama, here, SplitChoice.TENSOR))
    assert "us each (estimated)" in note
    assert note.endswith("; `vram-llm calibrate` measures them")
    assert sum_notes(planned(llama, here, SplitChoice.LAYER)) == ()


def test_the_reason_of_the_speed(llama: ModelProfile) -> None:
    reasons = why(planned(llama, rig(800, 400, gib=8)))
    (speed,) = [reason for reason in reasons if reason.startswith("Speed: ")]
    assert "devices compute at the same time" in speed
    assert "of it for 64 sums; the slowest is GPU" in speed
