"""Servers to measure, each in its own process: this one, and llama-server of the same source."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from scripts.build_llama_server import built_programs

_PATIENCE_S = 60.0


def free_port() -> int:
    """A free port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: list[str],
    port: int,
    log: Path,
    health: str = "/health",
    environment: dict[str, str] | None = None,
) -> Iterator[int]:
    """Start `command`, and yield its port once the server is healthy. Raises SystemExit."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while not _is_healthy(port, health):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not come up:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)  # between two looks at its health
        yield port
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_healthy(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def ours(model: Path, port: int, *, n_ctx: int, parallel: int, more: tuple[str, ...] = ()) -> list[str]:
    """The command line of this server."""
    return [
        sys.executable, "-m", "vram_llm", "serve", str(model), "--port", str(port), "--n-ctx", str(n_ctx),
        "--parallel", str(parallel), "--threads", str(os.cpu_count() or 1), "--reserve-mib", "0", *more,
    ]  # fmt: skip


def llama_server(
    model: Path, port: int, *, n_ctx: int, parallel: int, more: tuple[str, ...] = ()
) -> list[str]:
    """The command line of llama-server: same context, slots and threads, otherwise its defaults."""
    threads = str(os.cpu_count() or 1)
    return [
        str(built_programs() / "llama-server"), "-m", str(model), "--port", str(port), "-c", str(n_ctx),
        "-np", str(parallel), "--kv-unified", "-t", threads, "-tb", threads, "--fit", "off", *more,
    ]  # fmt: skip
