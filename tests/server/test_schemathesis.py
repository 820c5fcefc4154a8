"""The OpenAPI document is true: every request gets an answer that it describes, and no 5xx."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.conftest import listening
from tests.server.fake_engine import FakeEngine
from tests.server.tool_chat import TALKER
from vram_llm.model.pooling import Pooling
from vram_llm.server.app import create_app

MODELS = (
    TALKER,
    replace(TALKER, pooling=Pooling.MEAN, n_pooled=8),
    replace(TALKER, pooling=Pooling.RANK, n_pooled=1),
)
EXAMPLES = 15  # for each address
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def base_urls() -> Iterator[list[str]]:
    """A server for each of MODELS, in a thread of their own: schemathesis asks and waits."""
    started: Future[list[str]] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(listening(FakeEngine(info=info))) for info in MODELS]
            started.set_result(urls)
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    yield started.result(timeout=10)
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


schema = schemathesis.openapi.from_dict(create_app(FakeEngine()).openapi())


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
def test_every_answer_is_in_the_document(case: schemathesis.Case[Any], base_urls: list[str]) -> None:
    others = {"/v1/embeddings": 1, "/v1/rerank": 2}
    response = case.call(base_url=base_urls[others.get(case.path, 0)])
    case.validate_response(response, checks=CHECKS)
    if response.status_code >= 400:
        error = json.loads(response.content)["error"]
        assert {"message", "type", "param", "code"} <= error.keys()
        assert error["message"]
