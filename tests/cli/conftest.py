"""Fixtures of the tests of commands."""

from collections.abc import Iterator

import pytest

from tests.cli.running import each_plan_once


@pytest.fixture(scope="module")
def plans_made_once() -> Iterator[None]:
    """Commands that run within the tests of a module make each plan once: a large model takes seconds."""
    with each_plan_once():
        yield
