"""The OpenAPI document's operations, tried by schemathesis, with one test of pytest's for each.

`document.parametrize()` would give all of these tests one name, by which pytest-xdist takes them for one, and
would make thousands of cases in every process while it collects.
"""

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.core.result import Ok
from schemathesis.generation.feedback import NO_FEEDBACK
from schemathesis.pytest._test_builder import build_operation_test

from tests.server.fake_engine import FakeEngine
from vram_llm.server.app import create_app

_document = schemathesis.openapi.from_dict(create_app(FakeEngine()).openapi())
_operations = {
    found.ok().label: found.ok() for found in _document.get_all_operations() if isinstance(found, Ok)
}
each_operation = pytest.mark.parametrize("operation", _operations)


def try_cases(
    operation: str, check: Callable[[schemathesis.Case[Any]], None], settings: hypothesis.settings
) -> None:
    """Call `check(case=...)` with cases of the operation: examples and limits if `settings` have the phase
    `explicit`, drawn ones if they have `generate`.
    """
    build_operation_test(
        config=_document.config,
        operation=_operations[operation],
        test_func=settings(check),
        given_kwargs={},
        feedback=NO_FEEDBACK,
    )()
