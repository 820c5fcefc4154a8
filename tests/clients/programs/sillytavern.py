"""SillyTavern: its server, and its own page in Debian's Chromium. Arguments and output: see
tests/clients/conversation.py. It calls no tools here.

The page connects to the API "llama.cpp" and generates by its slash commands, so that the body is its own. The
streamed answer has the same body, sent through SillyTavern's server as the page does.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

url, _, question, _ = sys.argv[1:]
LIMIT_S = 240
RUN = """async command => {
    const result = await SillyTavern.getContext().executeSlashCommandsWithOptions(command);
    if (result.isError) throw new Error(result.errorMessage);
    return result.pipe;
}"""
STREAM = """async body => {
    const headers = SillyTavern.getContext().getRequestHeaders();
    const reply = await fetch("/api/backends/text-completions/generate", {method: "POST", headers, body});
    return await reply.text();
}"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def await_page(address: str, server: "subprocess.Popen[bytes]") -> None:
    """SillyTavern packs its page first, which takes half a minute."""
    for _ in range(LIMIT_S):
        if server.poll() is not None:
            raise SystemExit(f"SillyTavern ended with {server.returncode}")
        try:
            urllib.request.urlopen(address).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(1)  # it starts
    raise SystemExit(f"SillyTavern did not answer within {LIMIT_S} s")


def answers(page: Page, address: str) -> dict[str, object]:
    """A whole answer, and the pieces of a streamed one."""
    bodies: list[str] = []
    page.on(
        "request",
        lambda request: bodies.append(request.post_data or "{}") if "/generate" in request.url else None,
    )
    page.goto(address)
    page.wait_for_function("() => window.SillyTavern?.getContext?.().textCompletionSettings.temp != null")
    page.wait_for_selector("#preloader", state="detached")
    for command in (
        "/api quiet=true llamacpp",
        f"/api-url api=llamacpp connect=true quiet=true {url}",
        "/instruct-on",
        "/instruct quiet=true ChatML",
    ):
        page.evaluate(RUN, command)
    page.evaluate("() => { SillyTavern.getContext().textCompletionSettings.temp = 0; }")
    plain = page.evaluate(RUN, f"/genraw instruct=on {question}")
    streamed = page.evaluate(STREAM, json.dumps({**json.loads(bodies[-1]), "stream": True}))
    lines = [line.removeprefix("data: ") for line in streamed.splitlines() if line.startswith("data: ")]
    return {"plain": plain, "streamed": [text for line in lines if (text := json.loads(line)["content"])]}


chromium = shutil.which("chromium")
if chromium is None:
    raise SystemExit("Debian's chromium is not installed")
home, port = Path.cwd(), free_port()
command = ["sillytavern", "--port", str(port), "--disableCsrf", "--browserLaunchEnabled", "false"]
with (
    (home / "log").open("wb") as log,
    subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as server,
):
    try:
        await_page(f"http://127.0.0.1:{port}/", server)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page()
            page.set_default_timeout(1000 * LIMIT_S)
            found = answers(page, f"http://127.0.0.1:{port}/")
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the command and the Node.js that it starts
print(json.dumps(found))
