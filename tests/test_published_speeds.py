"""The published speed next to a plan's own."""

from typing import Any

import pytest

from tests import zoo
from vram_llm.machine.detect import what_if
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.types import Plan, Workload
from vram_llm.workflows.published_speeds import with_published


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    path = tmp_path_factory.mktemp("zoo") / "8b.gguf"
    return profile(read_header(zoo.write(zoo.llama(), path, common="Q4_K")))


def planned(llama: ModelProfile, rig: str, **wishes: Any) -> Plan:
    machine, wish = what_if([rig]), Workload(n_ctx=8192, parallel=1, **wishes)
    return with_published(make_plan(llama, machine, wish, compares=False), llama, machine, wish)


def test_a_plan_has_the_nearest_published_speed_and_its_own_at_that_depth(llama: ModelProfile) -> None:
    plan = planned(llama, "RTX 5080")
    found = plan.published
    assert found is not None
    assert (found.id, found.card, found.tokens_per_s) == ("p0487", "NVIDIA GeForce RTX 5080", 142.54)
    assert found.predicted_tokens_per_s == pytest.approx(142.54, rel=0.15)
    text = " ".join(str(plan).split())
    assert "Nearest published (2026-06-29): NVIDIA GeForce RTX 5080, Llama 3 8B Q4_0 at a depth of 2k" in text
    assert f"143 tok/s (predicted here: {found.predicted_tokens_per_s:.0f})" in text


def test_the_back_end_is_named_where_the_description_does_not(llama: ModelProfile) -> None:
    text = " ".join(str(planned(llama, "RX 7900 XTX")).split())
    assert "AMD Radeon RX 7900 XTX with ROCm, Llama 2 7B Q4_0, 167 tok/s" in text
    text = " ".join(str(planned(llama, "RX 7900 XTX@Vulkan")).split())
    assert "AMD Radeon RX 7900 XTX, Llama 2 7B Q4_0, 183 tok/s" in text


@pytest.mark.parametrize("rig", ["RTX 3050 6GB", "RTX 4090 + RTX 3090", "24GB@1008GB/s"])
def test_no_row_is_near(llama: ModelProfile, rig: str) -> None:
    assert planned(llama, rig, expect_depth=8192).published is None


def test_layers_on_the_host_have_no_published_speed(llama: ModelProfile) -> None:
    assert planned(llama, "RTX 5080", n_gpu_layers=20).published is None
