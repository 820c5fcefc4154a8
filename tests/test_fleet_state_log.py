"""The lines of the log about a fleet's models."""

import logging

import pytest

from vram_llm.fleet.snapshots import FleetModel, ModelState
from vram_llm.workflows.fleet_serving import StateLog

LOADED = ("chat is being loaded on GPU0", "chat is ready after 1.5 s")


@pytest.mark.parametrize(
    ("states", "lines"),
    [
        ("loading resident", LOADED),
        ("queued loading resident unloading unloaded loading resident", LOADED * 2),
        ("loading failed loading resident", (LOADED[0], *LOADED)),
        ("loading resident loading resident", (*LOADED, "chat is ready")),  # its engine died
        ("loading resident unloading resident", (*LOADED, "chat stays loaded")),
    ],
)
def test_lines(states: str, lines: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    """Only a load has a time."""
    caplog.set_level(logging.INFO)
    note = StateLog()
    for state in states.split():
        note(FleetModel(name="chat", state=ModelState(state), devices=("GPU0",), load_s=1.5))
    assert tuple(caplog.messages) == lines
