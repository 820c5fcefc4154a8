"""Real RPC workers, `vram-llm worker`, on free ports of the loopback."""

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

from tests.patience import PATIENCE_S, looks

_FIRST_PORT, _N_PORTS, _N_PROCESSES = 12_000, 1_250, 16


@contextmanager
def running_workers(n: int) -> Iterator[tuple[str, ...]]:
    """The "host:port" of `n` workers of one thread each, all listening; they end with the block."""
    with ExitStack() as stack:
        started = []
        for port in free_ports(n):
            endpoint = f"127.0.0.1:{port}"
            command = [sys.executable, "-m", "vram_llm", "worker", "--listen", endpoint, "--threads", "1"]
            started.append((endpoint, stack.enter_context(worker_process(command))))
        for endpoint, process in started:
            await_listening(endpoint, process)
        yield tuple(endpoint for endpoint, _ in started)


@contextmanager
def worker_process(
    command: Sequence[str], env: Mapping[str, str] | None = None, output: int | IO[bytes] = subprocess.DEVNULL
) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker by its command line, which need not listen yet; it is killed with the block."""
    with subprocess.Popen(command, env=env, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.kill()


def free_ports(n: int) -> list[int]:
    """Ports that nobody listens on at this moment, all different.

    None is given twice. They lie below those that systems hand out by themselves (from 32768 on Linux, from
    49152 on macOS), so that no client's connection takes one before its server does. Each process of
    pytest-xdist has its own.
    """
    return list(itertools.islice(_free, n))


def _free_ports() -> Iterator[int]:
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _N_PROCESSES
    first = _FIRST_PORT + process * _N_PORTS
    for i in itertools.count(os.getpid()):  # another session of tests begins elsewhere
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port := first + i % _N_PORTS))
            except OSError:
                continue
        yield port


_free = _free_ports()


def await_listening(endpoint: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until somebody listens there. Raises AssertionError where it ends, or nobody does in time."""
    host, port = endpoint.split(":")
    for _ in looks():
        if process.poll() is not None:
            raise AssertionError(
                f"the worker at {endpoint} ended with {process.returncode} before it listened"
            )
        with suppress(OSError), socket.create_connection((host, int(port)), PATIENCE_S):
            return
    raise AssertionError(f"the worker at {endpoint} does not listen after {PATIENCE_S:.0f} s")
