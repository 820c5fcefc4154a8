"""The process that renders chat templates: `python -m vram_llm.chat.render_process FD SECONDS`.

FD is one end of a socket pair. Templates come from model files: one that runs away, or takes all memory, is
killed here by the kernel, and costs the chat that it was to render. Orders come as pickles of the server's;
answers are JSON, for nothing that a template makes is trusted.
"""

import contextlib
import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import time
from pathlib import Path

from vram_llm.chat.render import Rendering, render_here
from vram_llm.parent_death import end_with_parent

HEADER = struct.Struct("<Q")
_FREE_BYTES = 256 << 20  # of memory for any order, and 32 times the order's bytes more
_KEPT_BYTES = 64 << 20  # of memory in use after an order; with more, a new process takes over
_NICE = 5  # streams go first
_PAGE_BYTES = resource.getpagesize()


def read_frame(sock: socket.socket) -> bytes | None:
    """A frame's body; None if the other end is closed. Raises OSError."""
    head = _read(sock, HEADER.size)
    return None if head is None else _read(sock, HEADER.unpack(head)[0])


def write_frame(sock: socket.socket, body: bytes) -> None:
    """Write a frame: eight bytes of little-endian length, then `body`. Raises OSError."""
    sock.sendall(HEADER.pack(len(body)))
    sock.sendall(body)


def _read(sock: socket.socket, n_bytes: int) -> bytes | None:
    data = bytearray()
    while len(data) < n_bytes:
        part = sock.recv(min(n_bytes - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


def _limit(seconds: int, order_bytes: int, base_bytes: int) -> None:
    """Limits for the next order: `seconds` of processor time, and one more for each MiB; memory.

    The kernel ends the process at the first; at the second, allocations fail.
    """
    most_seconds = int(time.process_time()) + 1 + seconds + order_bytes // (1 << 20)
    with contextlib.suppress(ValueError, OSError):  # macOS has no RLIMIT_AS that works
        resource.setrlimit(resource.RLIMIT_CPU, (most_seconds, resource.RLIM_INFINITY))
        resource.setrlimit(
            resource.RLIMIT_AS, (base_bytes + _FREE_BYTES + 32 * order_bytes, resource.RLIM_INFINITY)
        )


def _memory() -> tuple[int, int]:
    """The bytes of address space and of memory that this process has; 0 where /proc is missing."""
    with contextlib.suppress(OSError):
        total, resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[:2]
        return int(total) * _PAGE_BYTES, int(resident) * _PAGE_BYTES
    return 0, 0


def _answer(rendering: Rendering) -> bytes:
    return json.dumps([rendering.outcome, rendering.text, rendering.seconds]).encode()


def main() -> None:
    """Render orders until the server closes its end."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # the server decides when it ends
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICE)
    with contextlib.suppress(OSError):  # before the server, if the kernel has to choose
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    base_bytes, _ = _memory()
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        while (data := read_frame(sock)) is not None:
            _limit(int(sys.argv[2]), len(data), base_bytes)
            write_frame(sock, _answer(render_here(*pickle.loads(data))))
            if _memory()[1] > _KEPT_BYTES:
                return


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # the server has ended
        main()
