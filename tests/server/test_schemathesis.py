"""The OpenAPI document is true: every request gets an answer that it describes, and no 5xx."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, settings

from tests.patience import PATIENCE_S
from tests.server.fake_engine import FakeEngine
from tests.server.live import in_thread, listening
from tests.server.openapi import each_operation, try_cases
from tests.server.tool_chat import TALKER
from vram_llm.model.fim_tokens import FimTokens
from vram_llm.model.pooling import Pooling

if TYPE_CHECKING:  # tests/server/openapi.py loads it
    import schemathesis

pytestmark = pytest.mark.process  # computes for many seconds

MODELS = (
    replace(TALKER, fim=FimTokens(1, 2, 3), takes_audio=True),
    replace(TALKER, pooling=Pooling.MEAN, n_pooled=8),
    replace(TALKER, pooling=Pooling.RANK, n_pooled=1),
)
SETTINGS = settings(
    max_examples=15,  # drawn for each address
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
# Their bodies are those of another operation, or its base class, whose many cases at limits are enough.
SAME_BODIES = (
    "POST /apply-template",
    "POST /chat/completions/input_tokens",
    "POST /completions",
    "POST /infill",
    "POST /v1/messages/count_tokens",
    "POST /v1/responses/input_tokens",
)
DRAWN_ALONE = settings(SETTINGS, phases=[Phase.generate])


@pytest.fixture(scope="module")
def base_urls() -> Iterator[list[str]]:
    """A server for each of MODELS: schemathesis asks and waits."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(in_thread(listening(FakeEngine(info=info), endpoint_props=True)))
            for info in MODELS
        ]


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for thousands of requests."""
    with requests.Session() as kept:
        kept.trust_env = False  # or each request would look for proxies
        yield kept


@each_operation
def test_every_answer_is_in_the_document(
    operation: str, base_urls: list[str], session: requests.Session
) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    conformance = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]

    def check(case: "schemathesis.Case[Any]") -> None:
        others = {"/v1/embeddings": 1, "/v1/rerank": 2}
        base_url = base_urls[others.get(case.path, 0)]
        response = case.call(base_url=base_url, session=session, timeout=PATIENCE_S)
        case.validate_response(response, checks=conformance)
        if response.status_code >= 400:
            error = json.loads(response.content)["error"]
            assert {"message", "type", "param", "code"} <= error.keys()
            assert error["message"]

    try_cases(operation, check, DRAWN_ALONE if operation in SAME_BODIES else SETTINGS)
