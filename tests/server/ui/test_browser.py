"""The dashboard in a real Chromium, over a real server with the built-in model."""

import contextlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from tests.patience import PATIENCE_S, looks
from tests.server.fake_engine import FakeEngine
from tests.server.live import Serving, in_thread, listening, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

CHROMIUM = shutil.which("chromium") or ""
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not CHROMIUM, reason="Debian's chromium is not installed"),
]

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
PAGE_BYTES = 200_000
STYLES = {
    "weights": "weights", "context": "kv", "compute": "compute", "overhead": "overhead",
    "companions": "companions", "reserve": "reserve",
}  # fmt: skip
REACHED = """() => {
    const reached = document.activeElement;
    reached.dataset.reached = "";
    return reached.getAttribute("aria-label") ?? reached.innerText;
}"""
PHONE: Any = {"width": 390, "height": 844}
BUFFERS = ("weights", "context", "compute")
PATIENCE_MS = 1000 * PATIENCE_S
VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""


@dataclass
class Watched:
    """A page, and what the browser reported about it."""

    page: "Page"
    errors: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)  # answers to GET /status

    def open(self, url: str) -> None:
        """Open the dashboard of a server, and keep what it reports."""
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.urls.append(request.url))
        self.page.on("response", self._keep)
        self.page.add_init_script(VIOLATIONS)
        self.page.goto(url)

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _keep(self, response: Any) -> None:
        if response.url.endswith("/status") and response.status == 200:
            with contextlib.suppress(Exception):  # the page was closed meanwhile
                self.statuses.append(response.json())

    def has(self, text: str, where: str = "body") -> None:
        """Wait until a text is shown."""
        self.page.locator(where, has_text=text).first.wait_for(timeout=PATIENCE_MS)

    def check_quiet(self) -> None:
        """Nothing was reported, and nothing was asked of another server."""
        assert self.errors == []
        assert self.page.evaluate("window.violations") == []


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright  # not above: it takes a second to load

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Serving]:
    with serving("demo", "--parallel", "4") as served:
        served.await_health()
        yield served


@pytest.fixture
def watched(browser: "Browser") -> Iterator[Watched]:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    yield Watched(page)
    page.close()


@contextlib.contextmanager
def endless(url: str, n: int) -> Iterator[list[str]]:
    """`n` streams that end with the block, or with an error whose message is then in the list."""
    ends: list[str] = []
    stop = threading.Event()

    def read() -> None:
        body = {"prompt": "Once", "max_tokens": 100_000, "ignore_eos": True, "stream": True}
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=PATIENCE_S) as reply,
        ):
            for line in reply.iter_lines():
                if '"error"' in line:
                    ends.append(line)
                if stop.is_set():
                    return

    threads = [threading.Thread(target=read) for _ in range(n)]
    for thread in threads:
        thread.start()
    try:
        yield ends
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)


def bars(page: "Page") -> dict[str, dict[str, int]]:
    """The bytes of each part of each bar, by device and "planned" or "held"."""
    found: dict[str, dict[str, int]] = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll("#rig .device")].flatMap((device) =>
            [...device.querySelectorAll(".bar")].map((bar, i) => [
                `${device.dataset.device} ${["planned", "held"][i]}`,
                Object.fromEntries([...bar.querySelectorAll(".part")].map((part) =>
                    [part.dataset.kind, Number(part.dataset.bytes)])),
            ])))"""
    )
    return found


def expected_bars(status: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The bars that a status means."""
    places = {str(device["index"]): device for device in status["devices"]} | {"host": status["host"]}
    found = {}
    for name, place in places.items():
        planned = {style: place["planned"][f"{kind}_bytes"] for kind, style in STYLES.items()}
        found[f"{name} planned"] = {kind: n for kind, n in planned.items() if n}
        measured, own = place["measured"], place["own_bytes"]
        if measured is None and own is None:
            continue
        held = {STYLES[kind]: (measured or {}).get(f"{kind}_bytes", 0) for kind in BUFFERS}
        if own is not None:
            held["overhead" if measured else "own"] = max(own - sum(held.values()), 0)
            in_use = place["total_bytes"] - (place.get("available_bytes") or 0) - own
            held["other"] = max(in_use, 0) if name == "host" else place["other_bytes"]
        found[f"{name} held"] = {kind: n for kind, n in held.items() if n}
    return found


def planned_gauges(exposition: str) -> dict[str, dict[str, int]]:
    """The same bytes by GET /metrics; the demo is on the host alone."""
    found: dict[str, dict[str, int]] = {}
    for line in exposition.splitlines():
        if match := re.match(r"vram_llm:device_planned_bytes{(.*)} (.*)", line):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[1]))
            if n_bytes := int(float(match[2])):
                found.setdefault(labels["device"], {})[STYLES[labels["kind"]]] = n_bytes
    return found


def ended(served: Serving) -> None:
    """Kill the engine and wait until it is gone: a dead one still listed would be taken for the next."""
    with contextlib.suppress(ValueError, psutil.Error):  # there is none at this moment
        engine = served.engine()
        engine.kill()
        engine.wait(PATIENCE_S)


def stopped_while_it_loads(served: Serving) -> psutil.Process:
    """The next engine, stopped so that a page that asks each second sees it load."""
    ended(served)
    for _ in looks():
        with contextlib.suppress(ValueError, psutil.Error):  # there is none yet, or it has ended
            engine = served.engine()
            engine.suspend()
            states = [httpx.get(f"{served.url}/status").json()["engine"]["state"] for _ in range(5)]
            if "ready" not in states:  # nor did a message of its end of the load wait to be read
                return engine
            ended(served)  # it was too quick
    raise AssertionError("no engine was started again")


def is_narrow(page: "Page") -> bool:
    """Whether nothing is wider than the screen."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def serious(page: "Page") -> list[str]:
    """What axe-core finds that is serious or critical."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {each['nodes'][0]['html']}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


def test_under_load(watched: Watched, served: Serving) -> None:
    """Bars equal the status, a request is cancelled, and nothing but this server is asked."""
    page = watched.page
    watched.open(served.url)
    with endless(served.url, 2) as ends:
        page.locator("#requests tbody tr").nth(1).wait_for()
        for _ in looks():  # the figures of one answer are shown by the time of the next one
            shown = bars(page)
            if any(shown == expected_bars(status) for status in watched.statuses[-3:]):
                break
        else:
            pytest.fail(f"{shown} is not {expected_bars(watched.statuses[-1])}")
        gauges = planned_gauges(httpx.get(f"{served.url}/metrics").text)
        assert {f"{device} planned": parts for device, parts in gauges.items()} == {
            name: parts for name, parts in shown.items() if name.endswith("planned")
        }
        assert shown["host planned"]["weights"] > 0
        page.set_viewport_size(PHONE)
        assert is_narrow(page)
        page.get_by_role("button", name="Cancel request").first.click()
        page.locator("#requests tbody tr").nth(1).wait_for(state="detached")
        assert [json.loads(line.removeprefix("data: "))["error"]["code"] for line in ends] == [
            "request_cancelled"
        ]
    page.locator("#requests", has_text="None.").wait_for()
    assert page.locator("canvas").count() == 6
    watched.check_quiet()
    assert {url.split("/", 3)[2] for url in watched.urls} == {served.url.removeprefix("http://")}


def test_chat_streams(watched: Watched, served: Serving) -> None:
    page = watched.page
    watched.open(served.url)
    page.evaluate(
        """() => {
            window.lengths = new Set();
            const look = () => lengths.add(document.querySelector(".assistant .text")?.textContent.length);
            new MutationObserver(look).observe(
                document.querySelector(".messages"), {childList: true, subtree: true, characterData: true});
        }"""
    )
    page.get_by_label("Message", exact=True).fill("Hello!")
    page.keyboard.press("Enter")
    watched.has("generated", ".message.assistant .note")
    assert page.locator(".message.assistant .text").inner_text().strip()
    assert page.evaluate("window.lengths.size") > 2
    watched.check_quiet()


def thinking(route: "Route") -> None:
    """A stream that thinks first."""
    deltas = [{"reasoning_content": "Let me "}, {"reasoning_content": "see."}, {"content": "Four."}]
    chunks: list[Any] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    route.fulfill(body="".join([*lines, "data: [DONE]\n\n"]), content_type="text/event-stream")


def test_thinking_is_folded_and_images_are_sent(watched: Watched, served: Serving) -> None:
    page = watched.page
    props = httpx.get(f"{served.url}/props").json() | {"modalities": {"vision": True}}
    page.route("**/props", lambda route: route.fulfill(json=props))
    page.route("**/v1/chat/completions", thinking)
    watched.open(served.url)
    image: Any = {"name": "a.svg", "mimeType": "image/svg+xml", "buffer": b"<svg/>"}
    page.locator("input[type=file]").set_input_files(image)
    page.get_by_role("button", name="Remove image 1").wait_for()
    page.get_by_label("Message", exact=True).fill("What is it?")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.get_by_role("button", name="Send").click()
    body: Any = asked.value.post_data_json
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
    assert content[0]["image_url"]["url"].startswith("data:image/svg+xml;base64,")
    watched.has("Four.", ".message.assistant .text")
    thought = page.get_by_text("Let me see.")
    assert not thought.is_visible()
    page.get_by_text("Thinking, 11 characters").click()
    assert thought.is_visible()
    watched.check_quiet()


def test_what_if_answers_the_last_move(watched: Watched, served: Serving) -> None:
    page = watched.page
    watched.open(served.url)
    page.get_by_role("heading", name="What if").click()
    watched.has("as served", "#what-if .verdict")
    bodies: list[Any] = []
    page.on(
        "request", lambda each: bodies.append(each.post_data_json) if each.url.endswith("/plan") else None
    )
    slider = page.get_by_role("slider", name="Sequences")
    slider.focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.get_by_role("radio", name="others").check()
    page.get_by_role("button", name="Add a card").click()
    watched.has("GPU1 NVIDIA GeForce RTX 3090", "#what-if .answer")
    asked = [body for body in bodies if body]
    assert (asked[-1]["parallel"], asked[-1]["devices"]) == (10, ["NVIDIA GeForce RTX 3090"] * 2)
    watched.check_quiet()


def test_all_controls_are_reached_by_keyboard(watched: Watched, served: Serving) -> None:
    page = watched.page
    watched.open(served.url)
    page.locator("#rig .device").first.wait_for()
    controls = page.locator("a, button:enabled, input, select, textarea, summary, [tabindex='0']")
    n_controls = controls.filter(visible=True).count()
    names = set()
    for _ in range(n_controls):
        page.keyboard.press("Tab")
        names.add(page.evaluate(REACHED))
    assert {"Skip to the content", "Message", "Send"} <= names
    assert page.locator("[data-reached]").count() == n_controls


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(watched: Watched, served: Serving, scheme: Any) -> None:
    """On a phone too, where nothing is wider than the screen."""
    page = watched.page
    page.emulate_media(color_scheme=scheme)
    if scheme == "dark":
        page.set_viewport_size(PHONE)
    watched.open(served.url)
    page.locator("#rig .device").first.wait_for()
    for name in ("What if", "Log"):
        page.get_by_role("heading", name=name).click()
    watched.has("as served", "#what-if .verdict")
    assert serious(page) == []
    assert is_narrow(page)
    watched.check_quiet()


def test_a_key_is_asked_for_once_and_stored_nowhere(watched: Watched) -> None:
    page = watched.page
    with in_thread(listening(FakeEngine(), api_keys=("secret",))) as url:
        watched.open(url)
        page.get_by_label("Key", exact=True).fill("secret")
        with page.expect_request("**/status") as asked:
            page.get_by_role("button", name="Use this key").click()
        assert asked.value.headers["authorization"] == "Bearer secret"
        page.get_by_role("dialog").wait_for(state="hidden")
        kept = page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]")
    assert kept == ["", 0, 0]


def test_the_engine_and_the_server_end_and_come_back(watched: Watched, served: Serving) -> None:  # the last
    from playwright.sync_api import TimeoutError as NotSeen  # not above: it takes a second to load

    page = watched.page
    watched.open(served.url)
    page.locator("header .state.ready").wait_for()
    with endless(served.url, 1):
        page.locator("#requests tbody tr").first.wait_for()
        for _ in looks():
            following = stopped_while_it_loads(served)
            with contextlib.suppress(NotSeen):  # it was ready after all: once more
                page.locator(".banner.bad", has_text="The engine is restarting").wait_for(timeout=30_000)
                break
        else:
            pytest.fail("the page never told of the restart")
        with contextlib.suppress(psutil.Error):  # the watchdog has ended it: the next one loads
            following.resume()
        page.locator("header .state.ready").wait_for()
    assert page.locator(".banner.bad").count() == 0
    served.end()
    watched.has("The server does not answer", ".banner.bad")
    with serving("demo", port=served.port) as again:
        again.await_health()
        watched.has("The server is back", ".banner.good")
        page.locator("header .state.ready").wait_for()
    assert page.evaluate("window.violations") == []


def test_the_page_is_small() -> None:
    import vram_llm.server.ui.page as page

    folder = Path(page.__file__).parent / "static"
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < PAGE_BYTES
