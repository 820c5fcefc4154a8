"""A pytest plugin for llama-server's tests: it records their requests and results, and blocks the network.

It runs in the suite's own environment, by `-p plugin`, and writes one line of JSON per test to
SUITE_RECORD: `id`, `outcome` ("passed", "failed", "skipped"), `requests` ("POST /v1/embeddings 200"),
`options` of the servers it started ("--model"), `message`, `seconds`.
SUITE_TESTS names a file of ids, one a line: the tests to run; without it, all run.

Names of headers are written like "Content-Type", since the tests look them up in a dict and HTTP ignores
case. PICTURE replaces every picture that a test fetches, and a file of SUITE_MODELS every adapter, so that no
request leaves the machine.
"""

import base64
import json
import os
import shutil
import types
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import requests
import utils  # the suite's own
from requests.structures import CaseInsensitiveDict

# A PNG of 56 x 56 pixels, grey on black.
PICTURE = base64.b64decode(os.environ["SUITE_PICTURE"])
_LOCAL = ("127.0.0.1", "localhost", "::1")
_asked: list[str] = []
_options: list[str] = []


def pytest_configure() -> None:
    """Record requests, and answer requests for the hub's files."""
    send, send_httpx = requests.Session.send, httpx.Client.send

    def recorded(session: requests.Session, request: requests.PreparedRequest, **more: Any) -> Any:
        if urlsplit(request.url or "").hostname not in _LOCAL:
            return _picture(request)
        return _record(request.method, request.url, lambda: send(session, request, **more))

    def recorded_httpx(client: httpx.Client, request: httpx.Request, **more: Any) -> Any:
        return _record(request.method, str(request.url), lambda: send_httpx(client, request, **more))

    requests.Session.send = recorded
    httpx.Client.send = recorded_httpx
    start = utils.subprocess.Popen

    def noted(command: list[str], **more: Any) -> Any:
        _options.extend(word for word in command[1:] if word.startswith("-"))
        return start(command, **more)

    utils.subprocess = types.SimpleNamespace(**{**vars(utils.subprocess), "Popen": noted})
    utils.ServerPreset.load_all = staticmethod(lambda: None)  # every file is here
    utils.wget.download = _copied


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests that SUITE_TESTS names."""
    names = os.environ.get("SUITE_TESTS")
    if names is None:
        return
    wanted = set(Path(names).read_text().splitlines())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in wanted])
    items[:] = [item for item in items if item.nodeid in wanted]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """Begin a test with no requests and no servers."""
    _asked.clear()
    _options.clear()
    os.environ["SUITE_TEST"] = item.nodeid
    item.user_properties.append(("reports", []))
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep a phase's outcome; after the last, write the test's line."""
    reports = dict(report.user_properties)["reports"]
    reports.append(report)
    if report.when != "teardown":
        return
    failed = next((phase for phase in reports if phase.outcome == "failed"), None)
    skipped = any(phase.outcome == "skipped" for phase in reports)
    line = {
        "id": report.nodeid,
        "outcome": "failed" if failed else "skipped" if skipped else "passed",
        "requests": list(dict.fromkeys(_asked)),
        "options": list(dict.fromkeys(_options)),
        "message": _reason(failed) if failed else "",
        "seconds": round(sum(phase.duration for phase in reports), 1),
    }
    with Path(os.environ["SUITE_RECORD"]).open("a") as record:
        record.write(json.dumps(line) + "\n")


def _reason(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr)[:2000]


def _record(method: str | None, url: str | None, send: Any) -> Any:
    path = urlsplit(url or "").path
    try:
        reply = send()
    except Exception:  # noted as a request without an answer, and raised again
        _note(f"{method} {path} -")
        raise
    if isinstance(reply, requests.Response):  # the tests compare names as llama-server writes them
        reply.headers = CaseInsensitiveDict({name.title(): value for name, value in reply.headers.items()})
    _note(f"{method} {path} {reply.status_code}")
    return reply


def _note(line: str) -> None:
    if not line.endswith(("/health -", "/health 503")):  # asked until the server is up
        _asked.append(line)


def _picture(request: requests.PreparedRequest) -> requests.Response:
    if request.method != "GET" or not (request.url or "").endswith(".png"):
        raise requests.ConnectionError("no network in this suite", request=request)
    reply = requests.Response()
    reply.status_code, reply._content, reply.url = 200, PICTURE, request.url or ""
    return reply


def _copied(url: str, out: str) -> str:
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(os.environ["SUITE_MODELS"], "adapter.gguf"), out)
    return out
