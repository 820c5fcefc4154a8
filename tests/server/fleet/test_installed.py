"""The watch over models that `vram-llm pull` brings."""

import asyncio
import logging
from collections.abc import Iterator
from typing import cast

import pytest

from tests.patience import until
from tests.server.fleet.fake_fleet import FakeFleet, packed, settings_of
from vram_llm.planner.fleet.types import FleetPlan
from vram_llm.server.config import ServerConfig
from vram_llm.server.fleet import run
from vram_llm.server.fleet.ports import RunningFleet
from vram_llm.server.fleet.routed_models import FleetSettings
from vram_llm.server.fleet.run import FleetService


async def test_a_list_that_cannot_be_read_does_not_end_the_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One sentence tells of it, however often it happens; what was pulled meanwhile is noticed."""
    monkeypatch.setattr(run, "_LOOK_EVERY_S", 0.0)
    settings, n_reads = settings_of(packed("chat", 0)), 0
    looks: Iterator[object] = iter(["one", OSError("the folder is away"), OSError("the folder is away")])

    def installed() -> object:
        found = next(looks, "two")
        if isinstance(found, Exception):
            raise found
        return found

    def read(plan: FleetPlan) -> FleetSettings:
        nonlocal n_reads
        n_reads += 1
        return settings

    async def apply(_: FleetSettings) -> None:
        raise AssertionError("nothing has changed")

    fleet = cast("RunningFleet", FakeFleet(settings.plan))
    service = FleetService(fleet=fleet, settings=settings, apply=apply, read=read, installed=installed)
    with caplog.at_level(logging.WARNING, "vram_llm.fleet"):
        watching = asyncio.create_task(run._Serving(service, ServerConfig())._watch_installed())
        await until(lambda: n_reads == 1, "read again")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert [record.getMessage() for record in caplog.records] == [
        "the installed models cannot be listed; the server looks again: the folder is away"
    ]


async def test_a_hangup_after_which_reading_fails_unexpectedly_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next hangup reads again."""
    settings, n_reads = settings_of(packed("chat", 0)), 0

    def read(plan: FleetPlan) -> FleetSettings:
        nonlocal n_reads
        n_reads += 1
        raise RuntimeError("a bug")

    async def apply(_: FleetSettings) -> None:
        raise AssertionError("nothing was read")

    fleet = cast("RunningFleet", FakeFleet(settings.plan))
    serving = run._Serving(
        FleetService(fleet=fleet, settings=settings, apply=apply, read=read), ServerConfig()
    )
    serving._reload_soon()
    await until(lambda: caplog.text.count("RuntimeError: a bug") == 1, "logged")
    serving._reload_soon()
    await until(lambda: caplog.text.count("RuntimeError: a bug") == 2, "logged again")
    assert n_reads == 2
