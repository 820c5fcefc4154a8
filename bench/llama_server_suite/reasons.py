"""Why tests that llama-server passes fail here: by the test's id, or its id without parameters."""

from collections.abc import Mapping

REASONS: Mapping[str, str] = {}


def reason(test: str) -> str | None:
    """Why a test fails here; None: nobody knows yet."""
    return REASONS.get(test) or REASONS.get(test.partition("[")[0])
