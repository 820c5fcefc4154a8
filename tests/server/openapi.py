"""The OpenAPI document's operations, tried by schemathesis, with one test of pytest's for each.

`document.parametrize()` would give all of these tests one name, by which pytest-xdist takes them for one, and
would make thousands of cases in every process while it collects.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.server.fake_engine import FakeEngine
from vram_llm.server.app import create_app

if TYPE_CHECKING:  # it takes a second to load, in each process of pytest-xdist
    import schemathesis
    from schemathesis.schemas import APIOperation, BaseSchema

# Named here, because each process that collects tests would take a second to make the document.
OPERATIONS = (
    "GET /health",
    "POST /tokenize",
    "POST /detokenize",
    "GET /tokenizer_info",
    "POST /apply-template",
    "POST /chat/completions/input_tokens",
    "GET /",
    "GET /version",
    "GET /plan",
    "POST /plan",
    "DELETE /requests/{request_id}",
    "GET /logs",
    "GET /v1/models",
    "GET /v1/models/{model_id}",
    "POST /completion",
    "POST /completions",
    "POST /infill",
    "GET /v1/stream",
    "DELETE /v1/stream",
    "POST /v1/streams/lookup",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/responses",
    "POST /v1/responses/input_tokens",
    "GET /v1/responses/{response_id}",
    "DELETE /v1/responses/{response_id}",
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    "POST /v1/audio/transcriptions",
    "POST /v1/embeddings",
    "POST /embedding",
    "POST /embeddings",
    "POST /v1/rerank",
    "GET /props",
    "POST /props",
    "GET /status",
    "GET /metrics",
    "GET /slots",
    "POST /slots/{id_slot}",
    "GET /lora-adapters",
    "POST /lora-adapters",
)
each_operation = pytest.mark.parametrize("operation", OPERATIONS)


@cache
def _document() -> "tuple[BaseSchema, dict[str, APIOperation[Any, Any, Any, Any]]]":
    """The document, and its operations by their labels. Raises AssertionError if OPERATIONS lacks one."""
    import schemathesis
    from schemathesis.core.result import Ok

    document = schemathesis.openapi.from_dict(create_app(FakeEngine()).openapi())
    found = (each.ok() for each in document.get_all_operations() if isinstance(each, Ok))
    operations = {operation.label: operation for operation in found}
    assert set(operations) == set(OPERATIONS)
    return document, operations


def try_cases(
    operation: str, check: "Callable[[schemathesis.Case[Any]], None]", settings: hypothesis.settings
) -> None:
    """Call `check(case=...)` with cases of the operation: examples and limits if `settings` have the phase
    `explicit`, drawn ones if they have `generate`.
    """
    from schemathesis.generation.feedback import NO_FEEDBACK
    from schemathesis.pytest._test_builder import build_operation_test

    document, operations = _document()
    build_operation_test(
        config=document.config,
        operation=operations[operation],
        test_func=settings(check),
        given_kwargs={},
        feedback=NO_FEEDBACK,
    )()
