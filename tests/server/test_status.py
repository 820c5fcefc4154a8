"""GET /status: three cards of a fake driver over a plan made by hand, and the real engine with a stream."""

import asyncio
import dataclasses
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import make_request, running
from tests.machine.test_device_readings import three_cards
from tests.patience import looks, soon, until
from tests.planner.saved import local, remote, saved_plan
from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.live import app_of, in_process
from vram_llm import __version__
from vram_llm.engine.model_info import EngineState
from vram_llm.machine.device_readings import DeviceReader, DeviceReading
from vram_llm.machine.types import Source
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.speed_range import SpeedRange
from vram_llm.planner.types import SpeedEstimate
from vram_llm.server.metrics.system_readings import SystemReadings
from vram_llm.units import GIB, MIB

RIG = [local(0, uuid="GPU-2"), local(1, uuid=None, pci_bus_id="0000:01:00.0"), remote(0, "10.0.0.2:50052")]


class CountingReader(DeviceReader):
    """Three cards, and how often they were read."""

    n_read = 0

    def __init__(self) -> None:
        super().__init__(three_cards)

    def read(self) -> tuple[DeviceReading, ...]:
        self.n_read += 1
        return super().read()


@pytest.fixture
def rig(engine: FakeEngine) -> FakeEngine:
    """The engine, of a plan over two cards and a worker."""
    engine.plan = saved_plan(RIG, [3, 2, 1])
    engine.info = dataclasses.replace(INFO, memory={"GPU0": MemoryUse(5, 6, 7)}, draft_memory={})
    return engine


async def status(client: httpx.AsyncClient) -> Any:
    reply = await client.get("/status")
    assert reply.status_code == 200
    return reply.json()


async def test_devices_are_found_by_their_identity(
    rig: FakeEngine, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", three_cards())
    now = await status(client)
    first, second, worker = now["devices"]
    assert [device["name"] for device in now["devices"]] == [device.name for device in RIG]
    assert [device["backend"] for device in now["devices"]] == ["cuda", "cuda", "rpc"]
    assert [device["layers"] for device in now["devices"]] == [[0, 2], [3, 4], [5, 5]]
    assert (first["throttle_reasons"], second["throttle_reasons"]) == (
        ["power limit", "hardware thermal limit"],
        [],
    )
    assert second["pcie"] == {
        "generation": 1, "width": 8, "max_generation": 4, "max_width": 16, "rx_bytes_per_s": 5_000_000,
        "tx_bytes_per_s": 3_000_000,
    }  # fmt: skip
    assert [each["bytes"] for each in second["processes"]] == [700 * MIB, 30 * MIB]
    assert (worker["free_bytes"], worker["utilization"], worker["pcie"]) == (None, None, None)
    assert worker["total_bytes"] == 64 * GIB


async def test_planned_and_measured_bytes(rig: FakeEngine, client: httpx.AsyncClient) -> None:
    now = await status(client)
    assert now["devices"][1]["planned"] == {
        "weights_bytes": 4 * GIB, "context_bytes": 0, "compute_bytes": 0, "overhead_bytes": 0,
        "reserve_bytes": GIB, "companions_bytes": 0,
    }  # fmt: skip
    measured = {"weights_bytes": 5, "context_bytes": 6, "compute_bytes": 7}
    assert now["devices"][0]["measured"] == measured
    assert now["devices"][1]["measured"] == dict.fromkeys(measured, 0)
    assert now["host"]["planned"]["weights_bytes"] == 2 * GIB
    assert now["host"]["available_bytes"] <= now["host"]["total_bytes"]
    assert now["model"] == {"id": "tiny", "file": "/srv/models/big.gguf", "n_ctx": 8192, "parallel": 8}
    assert now["version"] == __version__


async def test_the_predicted_speed_and_its_range(rig: FakeEngine, client: httpx.AsyncClient) -> None:
    load = (await status(client))["load"]
    assert (load["predicted_tokens_per_s"], load["predicted_tokens_per_s_range"]) == (None, None)
    speed = SpeedEstimate(
        basis=Source.CATALOG, depth=1024, step_s=0.01, tokens_per_s=100.0, streams=1, streams_step_s=None,
        streams_tokens_per_s=None, streams_basis=None, prompt_tokens=512, prompt_s=None,
        prompt_tokens_per_s=None, prompt_stage_s=None, prompt_basis=None, devices=(),
        tokens_per_s_range=SpeedRange(low=85.0, high=108.0),
    )  # fmt: skip
    rig.plan = dataclasses.replace(rig.plan, speed=speed)
    load = (await status(client))["load"]
    assert load["predicted_tokens_per_s"] == 100.0
    assert load["predicted_tokens_per_s_range"] == {"low": 85.0, "high": 108.0}


@pytest.mark.parametrize(
    ("state", "has_loaded", "phase"),
    [
        (EngineState.LOADING, False, "loading"),
        (EngineState.LOADING, True, "restarting"),
        (EngineState.READY, True, "ready"),
        (EngineState.STOPPING, True, "stopping"),
        (EngineState.DEAD, False, "failed"),
    ],
)
async def test_it_answers_in_every_state(
    client: httpx.AsyncClient, engine: FakeEngine, state: EngineState, has_loaded: bool, phase: str
) -> None:
    engine.state, engine.detail, engine.info = state, "why", INFO if has_loaded else None
    now = await status(client)
    assert (now["engine"]["state"], now["engine"]["reason"]) == (phase, "why")


async def test_an_open_server_hides_programs_and_ids_of_others(
    rig: FakeEngine, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", three_cards())
    for address in ("10.0.0.7", "127.0.0.1"):  # the client of this test has the second one
        rig.metrics.begin(dataclasses.replace(make_request(f"resp_{address}-0"), client=address), 1.0)
    for is_open, ids in (
        (True, ["hidden-0", "resp_127.0.0.1-0"]),
        (False, ["resp_10.0.0.7-0", "resp_127.0.0.1-0"]),
    ):
        client = connect(insecure=is_open)
        now, slots = await status(client), (await client.get("/slots")).json()
        assert [each["id"] for each in now["requests"]] == ids
        assert [each["id_task"] for each in slots if each["is_processing"]] == ids
        assert (now["devices"][1]["processes"] is None) is is_open


async def test_readings_are_taken_once_a_second_when_asked() -> None:
    reader, now = CountingReader(), [0.0]
    readings = SystemReadings(reader, lambda: now[0])
    assert reader.n_read == 0
    await asyncio.gather(*(readings.latest(None) for _ in range(5)))
    now[0] = 0.9
    assert len((await readings.latest(None)).cards) == 3
    assert reader.n_read == 1
    now[0] = 1.1
    await readings.latest(None)
    assert reader.n_read == 2


async def test_a_driver_that_hangs_hides_the_cards_alone() -> None:
    answers = threading.Event()

    class HangingReader(CountingReader):
        def read(self) -> tuple[DeviceReading, ...]:
            answers.wait()
            return super().read()

    reader = HangingReader()
    readings = SystemReadings(reader, lambda: 0.0, most_s=0.01)
    try:
        for _ in range(3):
            found = await soon(readings.latest(None))
            assert (found.cards, found.host.total_bytes > 0) == ((), True)
    finally:
        answers.set()
    for _ in looks():
        if cards := (await readings.latest(None)).cards:
            break
    assert (len(cards), reader.n_read) == (3, 1)


async def test_the_scope_metrics_is_needed(engine: FakeEngine, tmp_path: Path) -> None:
    from vram_llm.server.keys_file import KeyScope, add_key

    path = tmp_path / "keys.json"
    keys = {scope: add_key(path, scope.value, [scope]) for scope in KeyScope}
    async with in_process(app_of(engine, keys_file=path)) as client:
        for scope, expected in ((KeyScope.INFERENCE, 403), (KeyScope.METRICS, 200), (KeyScope.ADMIN, 200)):
            reply = await client.get("/status", headers={"x-api-key": keys[scope]})
            assert reply.status_code == expected


@pytest.mark.process
async def test_the_real_engine_counts_and_shows_what_is_in_flight(plan_on_cpu: PlanOnCpu) -> None:
    prompt = (1, *range(40, 100))
    async with running(plan_on_cpu(n_ctx=4096, parallel=1)) as engine, in_process(app_of(engine)) as client:
        stream = engine.generate(make_request("first", prompt=prompt, max_tokens=4000))
        await soon(anext(stream))
        second = engine.generate(make_request("second"))
        waits = asyncio.create_task(soon(anext(second)))
        await until(lambda: engine.activity.n_waiting == 1, "a request that waits")
        now = await status(client)
        assert [(each["id"], each["state"]) for each in now["requests"]] == [
            ("first", "decode"),
            ("second", "waiting"),
        ]
        assert (now["load"]["n_running"], now["load"]["n_waiting"]) == (1, 1)
        assert now["requests"][0]["prompt_tokens"] == len(prompt)
        assert now["engine"]["uptime_s"] > 0
        assert now["host"]["own_bytes"] > MIB
        await stream.aclose()
        n_cached = (await waits).cached_tokens
        await second.aclose()
        for name in ("third", "fourth"):
            events = [event async for event in engine.generate(make_request(name, prompt, max_tokens=9))]
            n_cached += events[-1].cached_tokens
        now = await status(client)
        assert now["totals"]["cached_tokens"] == n_cached > 32
        assert now["totals"]["prompt_tokens"] == 3 * len(prompt) + 3
        assert now["requests"] == []
        assert now["load"]["kv_usage"] == 0
