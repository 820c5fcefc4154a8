"""The output of `plan`, compared exactly with the kept one (golden_plans.py says how to renew it)."""

from collections.abc import Iterator

import pytest

from tests.cli import golden_plans


@pytest.fixture(scope="module")
def machine() -> Iterator[None]:
    with golden_plans.fixed_machine():
        yield


@pytest.mark.process
@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("encoding", golden_plans.ENCODINGS)
@pytest.mark.parametrize("name", golden_plans.PLANS)
def test_as_kept(name: str, encoding: str) -> None:
    kept = golden_plans.path_of(name, encoding).read_text(encoding=encoding)
    assert golden_plans.printed(name, encoding) == kept


@pytest.mark.parametrize("name", golden_plans.PLANS)
def test_nothing_is_wider_than_the_terminal(name: str) -> None:
    """Except commands, which are pasted whole, and standard error."""
    width = 0
    for line in golden_plans.path_of(name, "utf-8").read_text(encoding="utf-8").splitlines():
        if line.startswith("=== "):
            width = int(line.split()[1])
        elif not line.startswith(("next: ", "--", "vram-llm: ", "no model named")):
            assert len(line) <= width, line
