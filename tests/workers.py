"""Real RPC workers, `vram-llm worker`, on free ports of the loopback."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_PATIENCE_S = 30.0


@contextmanager
def running_workers(n: int) -> Iterator[tuple[str, ...]]:
    """The "host:port" of `n` workers of one thread each, all listening; they end with the block."""
    with ExitStack() as stack:
        ports = free_ports(n)
        started = [(f"127.0.0.1:{port}", stack.enter_context(_process(port))) for port in ports]
        for endpoint, process in started:
            await_listening(endpoint, process)
        yield tuple(endpoint for endpoint, _ in started)


def free_ports(n: int) -> list[int]:
    """Ports that nobody listens on at this moment, all different."""
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(n)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


@contextmanager
def _process(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "vram_llm", "worker", "--listen", f"127.0.0.1:{port}", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def await_listening(endpoint: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until somebody listens there. Raises RuntimeError where it ends, or nobody does in time."""
    host, port = endpoint.split(":")
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the worker at {endpoint} ended with {process.returncode} before it listened")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the worker at {endpoint} does not listen: {error}") from error
            time.sleep(0.02)  # between two looks, up to the deadline
