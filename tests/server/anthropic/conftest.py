"""The engine of a model that thinks and calls tools."""

import pytest

from tests.server.fake_engine import FakeEngine
from tests.server.tool_chat import TALKER


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(info=TALKER)
