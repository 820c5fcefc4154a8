"""Why a plan is as it is."""

from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import DESKTOP, LAPTOP, machine, profile_of, speed, with_speeds
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.report.reasons import why
from vram_llm.planner.types import Workload


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.nemotron_49b(), tmp_path_factory.mktemp("49b"))


def test_the_split(nemotron: ModelProfile) -> None:
    plan = make_plan(nemotron, machine([LAPTOP, DESKTOP, DESKTOP]), Workload(n_ctx=16384))
    reasons = " ".join(why(plan))
    assert "the fullest device, " in reasons
    assert "Layers are not alike: " in reasons
    assert "own split by free memory, 17 layers on GPU0, 32 layers on GPU1, 31 layers and the out" in reasons
    assert "would not fit: GPU0 " in reasons


@pytest.mark.process  # computes for many seconds
def test_layers_on_the_cpu(nemotron: ModelProfile) -> None:
    plan = make_plan(nemotron, machine([DESKTOP]), Workload(n_ctx=2048, overrides=()))
    assert f"with fewer than {plan.placement.cpu_layers} layers there" in " ".join(why(plan))


def test_no_devices(nemotron: ModelProfile) -> None:
    assert not any("fullest" in reason for reason in why(make_plan(nemotron, machine([]), Workload())))


def test_idle_devices_and_what_limits_the_speed(tmp_path: Path) -> None:
    rig = with_speeds(machine([LAPTOP, DESKTOP, DESKTOP]), speed(400), speed(1000), speed(1000))
    reasons = why(make_plan(profile_of(zoo.llama(), tmp_path), rig, Workload(n_ctx=8192)))
    assert any(
        reason.startswith("GPU0 (card 0) idles: with it a step would take ")
        and reason.endswith("for it reads 400 GB/s (measured) and GPU1 1,000 GB/s (measured).")
        for reason in reasons
    )
    assert any("ms on GPU1, which reads 1,000 GB/s (measured)" in reason for reason in reasons)
