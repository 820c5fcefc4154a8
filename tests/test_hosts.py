"""Hosts that are not this computer, from Python."""

import dataclasses
from pathlib import Path

import pytest

import vram_llm
from tests import zoo
from vram_llm.machine.types import Fact, Source
from vram_llm.planner.export.formats import emit, from_json, to_json
from vram_llm.planner.make_plan import make_plan
from vram_llm.units import GIB
from vram_llm.workflows.saved_plans import check_loadable

SHORT = vram_llm.Workload(n_ctx=4096)


@pytest.fixture
def profile(tmp_path: Path) -> vram_llm.ModelProfile:
    return vram_llm.analyze(str(zoo.write(zoo.llama(), tmp_path / "8b.gguf")))


def test_a_host_in_words_and_in_a_rig_is_the_same() -> None:
    apart = vram_llm.detect("RTX 3090", ram="64GiB DDR4-3200 2ch", cpu="Ryzen 9 5950X", disk="7GB/s")
    together = vram_llm.detect("RTX 3090 on Ryzen 9 5950X, 64GiB DDR4-3200 2ch, 7GB/s")
    assert apart == together
    assert apart.is_what_if
    assert apart.host.disk_bytes_per_s == Fact(7e9, Source.GIVEN)


def test_a_host_without_cards_keeps_those_of_this_computer() -> None:
    here, there = vram_llm.detect(), vram_llm.detect(ram="64GiB")
    assert there.devices == here.devices
    assert (there.host.what_if, there.host.total_bytes) == (True, 64 * GIB)


def test_a_disk_alone_is_this_computers() -> None:
    here, with_disk = vram_llm.detect(), vram_llm.detect(disk="550MB/s")
    assert not with_disk.host.what_if
    assert with_disk.host.disk_bytes_per_s == Fact(550e6, Source.GIVEN)
    assert with_disk.host.cpu_name == here.host.cpu_name


def test_words_are_text() -> None:
    with pytest.raises(TypeError, match="ram is of type int; give str"):
        vram_llm.detect(ram=64)  # type: ignore[arg-type]


def test_a_plan_for_another_host_goes_to_json_and_back_and_is_not_loaded(
    profile: vram_llm.ModelProfile,
) -> None:
    plan = make_plan(profile, vram_llm.detect("on 64GiB DDR5-6000 2ch"), SHORT)
    again = from_json(to_json(plan), "a plan")
    assert again == plan
    assert again.host is not None
    assert (again.host.name, again.host.what_if) == ("64 GiB DDR5-6000 2ch", True)
    assert "host  64 GiB DDR5-6000 2ch" in str(plan)
    with pytest.raises(vram_llm.BadPlan, match=r"for another computer \(64 GiB DDR5-6000 2ch\)"):
        check_loadable(plan)


@pytest.mark.parametrize(("cpu", "threads"), [("16 cores", None), ("Ryzen 9 7950X", "16")])
def test_exports_name_threads_of_a_known_processor(
    profile: vram_llm.ModelProfile, cpu: str, threads: str | None
) -> None:
    plan = make_plan(profile, vram_llm.detect("RTX 4090", ram="64GiB", cpu=cpu), SHORT)
    line = emit(plan, "llama-server").split()
    assert (line[line.index("--threads") + 1] if "--threads" in line else None) == threads


def test_a_plan_for_graphics_that_use_the_hosts_memory(profile: vram_llm.ModelProfile) -> None:
    machine = vram_llm.detect("M1 16GB")
    plan = make_plan(profile, machine, SHORT)
    (use,) = plan.estimate.devices
    assert plan.placement.cpu_layers == 0
    assert use.total_bytes + plan.estimate.host.total_bytes <= machine.host.available_bytes - GIB
    assert plan.estimate.host.budget_bytes == machine.host.available_bytes - GIB - use.shared_bytes
    with pytest.raises(vram_llm.DoesNotFit):
        make_plan(profile, vram_llm.detect("M1 8GB"), dataclasses.replace(SHORT, n_gpu_layers=-1))
