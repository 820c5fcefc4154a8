"""Tunnels to workers on other computers, made by the system's ssh client.

A tunnel is one process of `ssh`, whose local end is a port of the loopback. It is kept until this program
ends: it is started again when it drops, on the same port, since plans and engines know the worker by it. On
Linux it ends with this program however that ends (parent_death.py).
"""

import atexit
import logging
import os
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum

from vram_llm.errors import WorkerUnreachable
from vram_llm.machine.worker_spec import WorkerSpec

SSH_VARIABLE = "VRAM_LLM_SSH"  # the client's command line, in place of "ssh"
log = logging.getLogger(__name__)

_OPTIONS = (
    "BatchMode=yes", "ExitOnForwardFailure=yes", "ConnectTimeout=10", "ServerAliveInterval=10",
    "ServerAliveCountMax=3", "ControlMaster=no", "ControlPath=none", "PermitLocalCommand=no",
)  # fmt: skip
_WORKER = 'PATH="$HOME/.local/bin:$PATH"; export PATH; exec vram-llm worker --listen {address} --while-input'
_NOT_FOUND, _OF_SSH = 127, 255  # exit codes: of a shell for a missing program, of ssh for its own errors
_READY_S, _ANSWER_S, _LOOK_S = 90.0, 3.0, 0.1
_BEAT_S = 10.0  # between signs of life for a worker with --while-input
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 30.0
_FIRST_PORT, _N_PORTS = 10_500, 1_000  # below the ports that systems hand out by themselves
_HELLO, _CAPS_BYTES = 14, 24  # RPC_CMD_HELLO of ggml-rpc.cpp, RPC_CONN_CAPS_SIZE of transport.h


class FarEnd(Enum):
    """The answer at the local end of a tunnel."""

    CLOSED = "ssh does not listen yet"
    NOBODY = "ssh listens, and nobody does at the far end"
    BUSY = "somebody accepts and says nothing: a worker that serves another program"
    WORKER = "a worker answers"


class SshTunnel:
    """A tunnel to one worker."""

    def __init__(self, worker: WorkerSpec) -> None:
        self.worker, self.port = worker, _free_port(worker.label)
        self._starts_worker = False  # until it is known that none runs there
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: deque[str] = deque(maxlen=20)
        self._closed, self._opened = threading.Event(), threading.Event()
        self._error: str | None = None
        self._reader = threading.Thread()
        self._thread = threading.Thread(target=self._keep, name=f"ssh {worker.ssh}", daemon=True)

    @property
    def endpoint(self) -> str:
        """ "host:port" of the local end."""
        return f"127.0.0.1:{self.port}"

    def open(self) -> None:
        """Make the tunnel; on return a worker has answered. Raises WorkerUnreachable."""
        if shutil.which(_client()[0]) is None:
            raise WorkerUnreachable(
                f"there is no program {_client()[0]} for the tunnel to {self.worker.ssh}; install the "
                f"OpenSSH client, or name another with ${SSH_VARIABLE}"
            )
        self._thread.start()
        self._opened.wait()
        if self._error is not None:
            self.close()
            raise WorkerUnreachable(self._error)

    def close(self) -> None:
        """End the tunnel, and the worker that it has started."""
        self._closed.set()
        if (process := self._process) is not None:
            with suppress(OSError):
                process.terminate()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_ANSWER_S)

    def _keep(self) -> None:
        """Run ssh until the tunnel is closed; the first time, until it cannot be made."""
        delay_s = _FIRST_DELAY_S
        while not self._closed.is_set():
            began = time.monotonic()
            with self._running() as process:
                if not self._opened.is_set() and not self._await_worker(process):
                    if self._error is None:
                        continue  # now with a worker
                    self._opened.set()
                    break
                self._opened.set()
                self._attend(process)
            if self._closed.is_set():
                break
            if time.monotonic() - began > _LONGEST_DELAY_S:
                delay_s = _FIRST_DELAY_S
            log.warning(
                "the tunnel to %s has ended (%s); again in %.1f s", self.worker.label, self._last(), delay_s
            )
            self._closed.wait(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)

    @contextmanager
    def _running(self) -> Iterator["subprocess.Popen[bytes]"]:
        """A process of ssh, which the block ends."""
        self._lines.clear()
        worker = self.worker
        command = [*_client(), "-T", "-a", "-x", *(part for option in _OPTIONS for part in ("-o", option))]
        command += ["-L", f"{self.endpoint}:{worker.address}"]
        far = [str(worker.ssh), _WORKER.format(address=shlex.quote(worker.address))]
        command += far if self._starts_worker else ["-N", str(worker.ssh)]
        process = subprocess.Popen(
            [sys.executable, "-m", "vram_llm.parent_death", *command],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._reader.start()
        self._process = process
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_ANSWER_S)
            process.kill()
            process.wait()
            self._reader.join(_ANSWER_S)
            for pipe in (process.stdin, process.stderr):
                if pipe is not None and not self._reader.is_alive():  # a proxy of ssh may still hold it
                    pipe.close()

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if text := line.decode("utf-8", "replace").strip():
                self._lines.append(text)

    def _await_worker(self, process: "subprocess.Popen[bytes]") -> bool:
        """Whether a worker answers at the far end.

        If not, `_error` says why; without an error, ssh is to be run again and to start one.
        """
        end = time.monotonic() + _READY_S
        while process.poll() is None and time.monotonic() < end and not self._closed.is_set():
            far = far_end(self.port)
            if far in (FarEnd.WORKER, FarEnd.BUSY):
                return True
            if far is FarEnd.NOBODY and self.worker.start and not self._starts_worker:
                self._starts_worker = True
                return False
            if far is FarEnd.NOBODY and not self._starts_worker:
                self._error = (
                    f"the tunnel to {self.worker.ssh} is open, and no worker listens on "
                    f"{self.worker.address} there; start one with `vram-llm worker`, or give --start-workers"
                )
                return False
            time.sleep(_LOOK_S)  # between two looks at the tunnel
        self._error = self._failure(process.poll())
        return False

    def _failure(self, code: int | None) -> str:
        """The sentence on an ssh that ended with `code`, or did not open the tunnel in time (None)."""
        host = self.worker.ssh
        if code is None:
            return f"the tunnel to {host} was not open after {_READY_S:.0f} s: {self._last()}"
        if code == _NOT_FOUND and self._starts_worker:
            return (
                f"{host} has no program vram-llm in ~/.local/bin or in the PATH of its shell: install it "
                "there, or link it from there"
            )
        if code == _OF_SSH or not self._starts_worker:
            return (
                f"ssh cannot make the tunnel to {host}: {self._last()}; `ssh {host} true` must work without "
                "a question: the host must be known, and a key must be in the agent or have no passphrase"
            )
        return f"`vram-llm worker` on {host} ended with {code}: {self._last()}"

    def _last(self) -> str:
        """The last line that ssh has printed."""
        if self._process is not None and self._process.poll() is not None:
            self._reader.join(_ANSWER_S)
        return self._lines[-1] if self._lines else "it said nothing"

    def _attend(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for the process's end, with signs of life for the worker that it has started."""
        assert process.stdin is not None
        beat_at = time.monotonic()
        while process.poll() is None:
            if self._closed.wait(_LOOK_S):
                process.terminate()
            if self._starts_worker and time.monotonic() >= beat_at:
                with suppress(OSError):
                    process.stdin.write(b"\n")
                beat_at = time.monotonic() + _BEAT_S


_tunnels: dict[str, SshTunnel] = {}
_lock = threading.Lock()


def open_tunnel(worker: WorkerSpec) -> SshTunnel:
    """The tunnel to a worker: the one that this program has, or a new one. Raises WorkerUnreachable."""
    with _lock:
        tunnel = _tunnels.get(worker.label)
        if tunnel is None:
            tunnel = SshTunnel(worker)
            tunnel.open()
            _tunnels[worker.label] = tunnel
        return tunnel


@atexit.register
def close_tunnels() -> None:
    """End all tunnels of this program."""
    with _lock:
        for tunnel in _tunnels.values():
            tunnel.close()
        _tunnels.clear()


def far_end(port: int) -> FarEnd:
    """The answer to llama.cpp's first message (negotiate_hello of ggml-rpc.cpp) on a port of the loopback."""
    try:
        with socket.create_connection(("127.0.0.1", port), _ANSWER_S) as sock:
            sock.sendall(struct.pack("<BQ", _HELLO, _CAPS_BYTES) + bytes(_CAPS_BYTES))
            try:
                return FarEnd.WORKER if sock.recv(1) else FarEnd.NOBODY
            except TimeoutError:
                return FarEnd.BUSY
            except ConnectionError:
                return FarEnd.NOBODY
    except ConnectionRefusedError:
        return FarEnd.CLOSED
    except OSError:
        return FarEnd.NOBODY


def _client() -> list[str]:
    return shlex.split(os.environ.get(SSH_VARIABLE) or "ssh")


def _free_port(label: str) -> int:
    """A free port of the loopback: nearly always the same one for a worker, as emitted flags need it."""
    first = zlib.crc32(label.encode()) % _N_PORTS
    for i in range(_N_PORTS):
        port = _FIRST_PORT + (first + i) % _N_PORTS
        with suppress(OSError), socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port
    raise WorkerUnreachable(
        f"all ports from {_FIRST_PORT} to {_FIRST_PORT + _N_PORTS - 1} of this computer are in use, and a "
        "tunnel needs one"
    )
