"""Every error has its row, and the rows are what clients expect."""

import json
from collections.abc import Iterator

import pytest

from vram_llm.errors import ContextExceeded, EngineDied, Overloaded, RequestError, UnknownModel, VramLLMError
from vram_llm.server import errors
from vram_llm.server.errors import ANSWERS, error_body, error_kind, error_response


def below(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


def test_every_request_error_has_a_row_of_its_own() -> None:
    here = {kind for kind in below(VramLLMError) if kind.__module__ == errors.__name__}
    of_requests = {kind for kind in below(RequestError) if kind.__module__.startswith("vram_llm.")}
    assert {RequestError, Overloaded, EngineDied} | of_requests | here <= set(ANSWERS)


def test_every_error_class_has_a_status() -> None:
    assert error_kind(KeyError("x")).status == 500
    errors_of_package = [kind.__new__(kind) for kind in below(VramLLMError)]
    assert {error_kind(error).status for error in errors_of_package} > {400}


@pytest.mark.parametrize(
    ("error", "status", "retry_after", "should_retry"),
    [
        (RequestError("no", "n"), 400, None, None),
        (ContextExceeded("no"), 400, None, None),
        (errors.BadKey("no"), 401, None, None),
        (UnknownModel("no"), 404, None, None),
        (errors.BodyTooLarge("no"), 413, None, None),
        (Overloaded("no", 0.2), 429, "1", None),
        (Overloaded("no", 7.5), 429, "8", None),
        (errors.NotReady("no"), 503, "2", None),
        (EngineDied("no"), 503, "2", None),
        (errors.Unavailable("no"), 503, None, "false"),
        (VramLLMError("no"), 500, None, "false"),
    ],
)
def test_answers(error: Exception, status: int, retry_after: str | None, should_retry: str | None) -> None:
    response = error_response(error)
    assert response.status_code == status
    assert response.headers.get("retry-after") == retry_after
    assert response.headers.get("x-should-retry") == should_retry
    body = json.loads(bytes(response.body))["error"]
    assert list(body) == ["message", "type", "param", "code"]
    assert body["message"] == "no"


def test_an_internal_error_shows_no_details() -> None:
    assert "secret" not in error_body(KeyError("secret"))["error"]["message"]
