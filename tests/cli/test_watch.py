"""`watch` under textual's pilot and as lines, over three fake cards, and over the real server."""

import asyncio
import json
import re
import sys
from dataclasses import replace

import httpx
import pytest
from textual.widgets import OptionList

from tests.cli.running import environment, run, run_program
from tests.cli.watched import FedSource, of_cards, of_rig
from tests.patience import PATIENCE_S, until
from tests.server.fake_engine import FakeEngine
from tests.server.live import Serving, listening
from tests.workers import free_ports
from vram_llm.cli.watching.app import WatchApp
from vram_llm.cli.watching.drawing import curve, flow
from vram_llm.cli.watching.history import Curve, History
from vram_llm.cli.watching.layout import View, screen_lines
from vram_llm.cli.watching.snapshot import (
    Snapshot,
    WatchedFleetModel,
    WatchedLoad,
    WatchedTotals,
    of_server,
)
from vram_llm.cli.watching.sources import MachineSource, ServerOrMachine, ServerSource
from vram_llm.cli.watching.windows import SettingsScreen, TextScreen
from vram_llm.errors import RequestError, ServerUnreachable
from vram_llm.text.lines import plain
from vram_llm.units import GIB

SIZES = [(60, 24), (80, 24), (120, 30), (200, 50), (20, 5)]


def screen(view: View, width: int, height: int) -> str:
    """The panels as text. No line is too long, and there are not too many."""
    text = plain(screen_lines(view, width, height))
    assert len(text.splitlines()) <= height
    assert max(map(len, text.splitlines()), default=0) <= width
    return text


def shown(app: WatchApp) -> str:
    """The panels of a running application."""
    return screen(app.view, app.size.width, app.size.height - 1)


def viewed(snapshot: Snapshot, n_readings: int = 5) -> View:
    view = View(history=History(), snapshot=snapshot)
    for _ in range(n_readings):
        view.history.add(snapshot)
    return view


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_each_model_of_a_fleet_is_shown(width: int, height: int) -> None:
    models = (
        WatchedFleetModel(
            id="chat",
            state="resident",
            device_bytes={"GPU0": 8 * GIB, "host": GIB},
            load=WatchedLoad(n_running=3, n_waiting=1, generation_tokens_per_s=41.7),
        ),
        WatchedFleetModel(id="coder", state="queued", device_bytes={"GPU1": 5 * GIB}, waiting=2),
    )
    text = screen(viewed(replace(of_rig(), models=models)), width, height)
    if width >= 80:
        assert "2 models, 1 loaded" in text
        assert "Llama-3.3" not in text
        assert re.search(r"chat +resident +3 +1 +41\.7 +8\.00 GiB GPU0, 1\.00 GiB host", text)
        assert re.search(r"coder +queued +- +2 +- +5\.00 GiB GPU1", text)


@pytest.mark.parametrize(
    ("values", "width", "rows", "lines"),
    [
        ([0.0, 0.5, 1.0], 5, 1, ["   ▄█"]),
        ([0.0, 0.5, 1.0], 2, 1, ["▄█"]),
        ([0.5, 1.0, 0.001], 3, 2, [" █ ", "██▁"]),
        ([None, 2.0], 2, 1, [" █"]),
        ([], 3, 1, ["   "]),
    ],
)
def test_a_curve(values: list[float | None], width: int, rows: int, lines: list[str]) -> None:
    assert curve(values, width, rows) == lines


def test_facts_flow() -> None:
    assert flow(["a" * 4, "b" * 4, "c" * 20, "d"], 10, 2) == ["aaaa  bbbb", "d"]
    assert flow([], 10, 2) == ["", ""]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("snapshot", [of_cards(), of_rig(), replace(of_rig(), devices=(), warnings=())])
def test_every_size(snapshot: Snapshot, width: int, height: int) -> None:
    text = screen(viewed(snapshot), width, height)
    if width < 60:
        return
    for device in snapshot.devices:
        assert device.id in text
    if snapshot.load is not None:
        assert "running 3  waiting 2" in text
        assert "41.7" in text
        assert "45%" in text


@pytest.mark.parametrize(("totals", "shown"), [((40, 30), "drafts taken 75%"), ((0, 0), "")])
def test_drafts_are_shown_once_there_are_some(totals: tuple[int, int], shown: str) -> None:
    counts = WatchedTotals(drafted_tokens=totals[0], accepted_tokens=totals[1])
    text = screen(viewed(replace(of_rig(), totals=counts)), 120, 40)
    assert shown in text
    assert ("drafts" in text) == bool(shown)


def test_a_wide_screen_shows_every_fact() -> None:
    text = screen(viewed(of_rig()), 200, 50)
    for fact in (
        "rig:8080  Llama-3.3-70B-Q4_K_M  32k context, 4 at once  ready 2 h 05",
        "PCIe 3@4x",
        "91 °C",
        "slowed by hardware thermal limit",
        "GPU1 (RTX 3060) is in an x4 slot",
        "A display is connected to GPU2 (RTX 4080)",
        "2 uncorrected errors",
        "8.79 GiB",
        "250/350 W",
    ):
        assert " ".join(fact.split()) in " ".join(text.split())
    assert "more lines" not in text


def test_a_small_screen_says_what_it_hides() -> None:
    snapshot = of_cards()
    many = tuple(replace(snapshot.devices[0], index=i, id=f"GPU{i}") for i in range(16))
    view = viewed(replace(snapshot, devices=many))
    view.chosen = 12
    text = screen(view, 80, 24)
    assert "> GPU12" in text
    assert "more, arrows show them" in text
    assert "…" in text


def test_a_status_with_fewer_and_with_more_fields() -> None:
    status = {
        "version": "9",
        "devices": [{"index": 0, "name": "x", "new": 1}],
        "load": {"n_running": 1},
        "new": {},
    }
    found = of_server("http://a", json.dumps(status).encode())
    assert (found.server_version, found.host, found.devices[0].name) == ("9", None, "x")
    for body in (b"<html>", b"[]", b'{"devices": [{}]}'):
        with pytest.raises(ServerUnreachable, match="is not vram-llm"):
            of_server("http://a", body)


async def test_the_keys() -> None:
    source = FedSource(of_rig())
    app = WatchApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(lambda: app.view.snapshot is not None, "read")
        assert "> GPU0" in shown(app)
        await pilot.press("down", "down", "down", "up")
        assert "> GPU1" in shown(app)
        assert "memory↓" in shown(app)
        await pilot.press("s", "s")
        assert "pid↑" in shown(app)
        await pilot.press("minus", "c")
        assert "pid↓" in shown(app)
        assert f"devices: {Curve.MEMORY}" in shown(app)
        await pilot.press("question_mark")
        assert isinstance(app.screen, TextScreen)
        await pilot.press("escape", "w")
        assert "x4 slot" in app.export_screenshot().replace("&#160;", " ")
        await pilot.press("escape", "f2")
        assert isinstance(app.screen, SettingsScreen)
        await pilot.press("enter", "down", "enter")
        assert str(app.screen.query_one(OptionList).get_option("interval").prompt) == "a reading every 2 s"
        await pilot.press("escape")
        assert f"devices: {Curve.POWER}" in shown(app)
        await pilot.press("f10")
    assert source.is_closed
    assert app.return_code == 0


async def test_a_server_that_goes_and_comes_back() -> None:
    source = FedSource(ServerUnreachable("no server answers at http://rig:8080"))
    app = WatchApp(source, interval_s=0.1)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(lambda: re.search("no answer for .*: no server answers", shown(app)) is not None, "said")
        source.next = of_rig()
        await until(lambda: "ready 2 h 05" in shown(app), "back")
        source.next = ServerUnreachable("no server answers at http://rig:8080")
        await until(lambda: "no answer" in shown(app), "said again")
        assert "GPU1" in shown(app)  # as last seen
        await pilot.press("f2")  # drawing goes on below a window
        source.next = of_rig()
        await until(lambda: app.view.gone is None, "back again")
        await pilot.press("escape")
        await pilot.resize_terminal(200, 50)
        assert "programs on the cards" in shown(app)
        await pilot.press("q")


async def test_the_panels_are_drawn() -> None:
    app = WatchApp(FedSource(of_rig()))
    async with app.run_test(size=(100, 30)):
        await until(lambda: app.view.snapshot is not None, "read")
        assert "RTX&#160;3060" in app.export_screenshot()


async def test_without_an_address_a_server_is_looked_for() -> None:
    server = FedSource(RequestError("it wants an API key"))
    watched = ServerOrMachine(server, FedSource(of_cards()))
    found = [await watched.read() for _ in range(5)]
    assert {each.note for each in found} == {"it wants an API key"}
    assert server.n_reads == 1
    server.next = of_rig()
    assert (await watched.read()).address == "http://rig:8080"
    server.next = ServerUnreachable("gone")
    assert (await watched.read()).note == "gone"
    await watched.close()
    assert server.is_closed


async def test_a_server_with_keys() -> None:
    async with listening(FakeEngine(), api_keys=("sk-right",)) as url:
        for key, address in ((None, url), ("sk-wrong", f"{url}/v1")):
            server = ServerSource(address, key)
            with pytest.raises(RequestError, match="wants an API key with the scope metrics"):
                await server.read()
            await server.close()
        server = ServerSource(url.removeprefix("http://"), "sk-right")
        found = await server.read()
        assert (found.address, found.model and found.model.id) == (url, "tiny")
        assert found.load is not None
        await server.close()
    with pytest.raises(ServerUnreachable, match="no server answers"):
        await ServerSource(url, None).read()


async def test_this_computer_is_read() -> None:
    found = await MachineSource().read()
    assert found.host is not None
    assert 0 < found.host.available_bytes <= found.host.total_bytes


async def ask_on(url: str) -> None:
    """Ask for completions, one after the other, until cancelled."""
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
        while True:
            asked = {"model": "demo", "prompt": "GGUF is", "max_tokens": 200}
            (await client.post("/v1/completions", json=asked)).raise_for_status()


@pytest.mark.process
async def test_a_real_server_under_the_pilot(demo_server: Serving) -> None:
    demo_server.await_health()
    app = WatchApp(ServerSource(demo_server.url, None), interval_s=0.05)
    asking = asyncio.create_task(ask_on(demo_server.url))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(lambda: re.search(r"running [1-9]\d*  waiting", shown(app)) is not None, "seen at work")
        await until(lambda: any(app.view.history.generation_rates), "seen with tokens")
        assert "demo" in shown(app)
        assert "ready" in shown(app)
        asking.cancel()
        await until(lambda: "running 0  waiting 0" in shown(app), "seen idle")
        await pilot.press("q")


@pytest.mark.process
def test_once(demo_server: Serving) -> None:
    demo_server.await_health()
    address = demo_server.url.removeprefix("http://")
    done = run("watch", address, "--once")
    assert done.returncode == 0, done.stderr
    assert f"{address}  demo" in done.stdout
    assert "KV" in done.stdout
    found = json.loads(run("watch", f"{demo_server.url}/v1", "--once", "--json").stdout)
    assert (found["model"]["id"], found["engine"]["state"]) == ("demo", "ready")


@pytest.mark.process
def test_once_without_a_server() -> None:
    gone = run("watch", "127.0.0.1:9", "--once")
    assert gone.returncode == 34
    assert "no server answers at http://127.0.0.1:9" in gone.stderr


@pytest.mark.process
def test_the_cards_of_this_computer_once() -> None:
    program = (sys.executable, "-m", "tests.cli.watched")
    apart = {**environment(columns=60), "VRAM_LLM_PORT": str(*free_ports(1))}  # where nothing listens
    done = run_program(*program, "watch", "--once", env=apart)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 60
    text = " ".join(done.stdout.split())
    assert "GPU1" in text
    assert "GPU1 (RTX 3060) is in an x4 slot" in text
