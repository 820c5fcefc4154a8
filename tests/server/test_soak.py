"""Mixed load, overload and kills of the engine, for a minute, with pauses that leave processors to others.

`python -m bench.soak` runs for 30 minutes; docs/measurements.md has its last result.
"""

import asyncio
from pathlib import Path

import pytest

from bench.servers import running
from bench.soak import command, fill_store, soak
from tests.workers import free_ports
from vram_llm.units import MIB

pytestmark = pytest.mark.process

_SLACK = 1.05  # of memory
_LEAST_SLACK_BYTES = 8 * MIB  # 5 % of processes so small are less than what the allocator moves


def test_nothing_grows(tiny_model: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with running(command(tiny_model, port), port, tmp_path / "log"):
        # Two things take memory once, and are no leaks: the server keeps the last MAX_RESPONSES responses,
        # and its allocator keeps what the most clients at once have taken. Both come before the first
        # reading: clients without pauses are more at once than those of the soak.
        asyncio.run(fill_store(port))
        asyncio.run(soak(port, seconds=0, kill_every_s=20))
        report = asyncio.run(soak(port, seconds=45, kill_every_s=12, pause_s=8, least_kills=3))
    assert report.server_errors == {}
    assert report.statuses.keys() <= {200, 400, 408, 429}
    assert {200, 400} <= report.statuses.keys()
    assert set(report.broken_streams) <= {"engine_died"}
    first, last = report.readings[1], report.readings[-1]
    assert last.server_fds <= first.server_fds
    assert last.engine_fds <= first.engine_fds
    for before, after in (
        (first.server_bytes, last.server_bytes),
        (first.engine_bytes, last.engine_bytes),
    ):
        assert after <= max(_SLACK * before, before + _LEAST_SLACK_BYTES)
