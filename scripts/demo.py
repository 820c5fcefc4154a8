"""Demonstrate the built-in model: analyze, plan, serve, questions, a tool; then serve until Ctrl+C.

Nothing is downloaded. The large model in one of the plans is a header without weights (tests/zoo).
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType

from scripts.demo_error import PORT_IN_USE, DemoError
from scripts.demo_questions import ask

HOST = "127.0.0.1"
MODEL = "demo"
RIG = ("--gpu", "RTX 4080 Laptop", "--gpu", "2x RTX 3090 Ti")
CLI = str(Path(sys.executable).parent / "vram-llm")
START_S = 300.0
STOP_S = 20.0


def main() -> int:
    """Run the demo. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--once", action="store_true", help="stop after the answer")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        run(options.port, options.once)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ndemo: stopped")
    return 0


def run(port: int, once: bool) -> None:
    """Run all steps. Raises DemoError if a command fails or the port is taken."""
    check_port(port)
    _command("analyze", MODEL)
    _command("plan")
    _plan_a_large_model()
    server = _serve(port)
    try:
        _wait_until_ready(server, port)
        ask(f"http://{HOST}:{port}/v1")
        if once:
            return
        print(_how_to_go_on(port), flush=True)
        status = server.wait()
        raise DemoError(f"the server ended by itself with exit code {status}")
    finally:
        _stop(server)


def check_port(port: int) -> None:
    """Raises DemoError if `port` cannot be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            other = port + 1 if 1023 < port < 65535 else 8081
            raise DemoError(
                f"port {port} on {HOST} cannot be used ({error}); try: make demo PORT={other}", PORT_IN_USE
            ) from error


def _plan_a_large_model() -> None:
    """Plan the 49B on three unequal cards, which need not be here."""
    from tests import zoo

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "Nemotron-Super-49B-Q8_0.gguf"
        zoo.write(zoo.nemotron_49b(), path)
        _command("plan", path.name, *RIG, "--n-ctx", "2048", folder=folder)


def _command(*arguments: str, folder: str | None = None) -> None:
    print(f"\n$ vram-llm {shlex.join(arguments)}", flush=True)
    status = subprocess.run([CLI, *arguments], check=False, cwd=folder).returncode
    if status != 0:
        raise DemoError(f"vram-llm {arguments[0]} ended with exit code {status}", status)


def _serve(port: int) -> subprocess.Popen[bytes]:
    arguments = ["serve", MODEL, "--host", HOST, "--port", str(port)]
    print(f"\n$ vram-llm {' '.join(arguments)}", flush=True)
    # The server has its own session: only this script gets Ctrl+C, and then ends the server in order.
    return subprocess.Popen([CLI, *arguments], start_new_session=True)


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        status = server.poll()
        if status is not None:
            raise DemoError(f"vram-llm serve ended with exit code {status} before it was ready", status)
        if _is_healthy(port):
            return
        time.sleep(0.1)  # until the next check
    raise DemoError(f"the server was not ready after {START_S:.0f} s")


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _how_to_go_on(port: int) -> str:
    return f"""
Serving on http://{HOST}:{port} until Ctrl+C. How to go on, in another terminal:

  curl http://{HOST}:{port}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "", "messages": [{{"role": "user", "content": "What is VRAM?"}}]}}'
  OpenAI(base_url="http://{HOST}:{port}/v1", api_key="none")    # the OpenAI SDK for Python
  .venv/bin/vram-llm chat --url http://{HOST}:{port}/v1         # at the terminal
  .venv/bin/vram-llm plan YOUR.gguf                             # your own model on your own cards
  .venv/bin/vram-llm serve YOUR.gguf --port {port + 1}
"""


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its child processes."""
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(STOP_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            print("demo: the server does not end; killing it", file=sys.stderr)
    try:
        os.killpg(server.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    server.wait()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
