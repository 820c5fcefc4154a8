import re
from pathlib import Path

import pytest

from scripts import setup
from scripts.build_args import SetupError

ROOT = Path(__file__).resolve().parents[2]


def test_the_pinned_version_is_read_from_pyproject() -> None:
    requirement = setup.llama_requirement('dependencies = ["a>=1", "llama-cpp-python==0.3.36", "b"]')
    assert requirement == "llama-cpp-python==0.3.36"


def test_an_unpinned_version_is_refused() -> None:
    with pytest.raises(SetupError, match="pins no llama-cpp-python"):
        setup.llama_requirement('dependencies = ["llama-cpp-python>=0.3"]')


def test_the_stamp_follows_the_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    lock.write_text("a==1")
    monkeypatch.setattr(setup, "INPUTS", (lock,))
    before = setup.stamp_of("key")
    assert before == setup.stamp_of("key")
    assert before != setup.stamp_of("other")
    lock.write_text("a==2")
    assert before != setup.stamp_of("key")


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_locks_hold_plain_pins_without_llama_cpp_python(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    pin = re.compile(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; .+)?")
    assert [line for line in lines if not pin.fullmatch(line)] == []
    assert not any(line.startswith("llama-cpp-python") for line in lines)


def test_the_development_lock_holds_every_runtime_pin() -> None:
    runtime, dev = (
        set((ROOT / name).read_text().splitlines()) for name in ("requirements.lock", "requirements-dev.lock")
    )
    everywhere = {line for line in dev if " ;" not in line}  # holds a pin of some systems too
    assert {line for line in runtime - dev if line.partition(" ;")[0] not in everywhere} == set()
