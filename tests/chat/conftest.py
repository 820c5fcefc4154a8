"""llama.cpp's chat templates, one a test."""

import pytest

from tests.chat.templates import NAMES, source_of


@pytest.fixture(params=NAMES)
def llama_template(request: pytest.FixtureRequest) -> str:
    """The Jinja source of each of llama.cpp's templates; a test that takes it runs once for each."""
    return source_of(request.param)
