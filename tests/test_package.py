"""`import vram_llm`: its cost, and the names that it offers."""

import subprocess
import sys

import pytest

import vram_llm


@pytest.mark.process
def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, vram_llm; print(*(m for m in sys.modules if m.startswith('vram_llm') or m == 'numpy'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == ["vram_llm", "vram_llm._version"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = vram_llm.nonsense


@pytest.mark.parametrize("name", vram_llm.__all__)
def test_every_name_of_the_front_door_is_there(name: str) -> None:
    assert getattr(vram_llm, name) is not None


@pytest.mark.process
def test_plan_is_the_function_also_after_its_parts_were_imported() -> None:
    script = "import vram_llm.planner.types, vram_llm; from vram_llm.workflows import planning; "
    script += "assert vram_llm.plan is planning.plan"
    subprocess.run([sys.executable, "-c", script], check=True)
