"""An RPC worker on the processor that counts its own buffers: `python -m tests.counting_worker PORT FILE`.

FILE is a native array of two 64-bit numbers: the bytes that the worker holds, and the most it has held.
"""

import ctypes
import mmap
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.workers import await_listening, free_ports, worker_process

_NUMBERS = struct.Struct("=QQ")


class CountingWorker(NamedTuple):
    """A running worker, and the file of its counts."""

    endpoint: str
    counts: Path

    @property
    def held_bytes(self) -> int:
        """Bytes of its buffers now."""
        held: int = _NUMBERS.unpack(self.counts.read_bytes())[0]
        return held


@contextmanager
def counting_workers(n: int, folder: Path) -> Iterator[tuple[CountingWorker, ...]]:
    """`n` workers of one thread each, all listening; they end with the block."""
    with ExitStack() as stack:
        workers = []
        for port in free_ports(n):
            counts = folder / f"{port}.counts"
            counts.write_bytes(_NUMBERS.pack(0, 0))
            command = [sys.executable, "-m", "tests.counting_worker", str(port), str(counts)]
            process = stack.enter_context(worker_process(command))
            await_listening(f"127.0.0.1:{port}", process)
            workers.append(CountingWorker(f"127.0.0.1:{port}", counts))
        yield tuple(workers)


def main(port: str, counts: str) -> None:
    """Serve until the process is killed."""
    from vram_llm.llama import bindings as b
    from vram_llm.llama import rpc
    from vram_llm.llama.dryrun.ggml_structs import BufferI, BufferType, callback, cpu_buffer_type

    with Path(counts).open("r+b") as stream:
        page = mmap.mmap(stream.fileno(), _NUMBERS.size)
    held: dict[int, int] = {}
    iface = BufferType.from_address(cpu_buffer_type()).iface
    allocate = ctypes.CFUNCTYPE(b.Pointer, b.Pointer, ctypes.c_size_t)(iface.alloc_buffer)
    most = 0

    def note() -> None:
        nonlocal most
        now = sum(held.values())
        most = max(most, now)
        page[:] = _NUMBERS.pack(now, most)

    def counted(buffer_type: int, n_bytes: int) -> int | None:
        buffer: int | None = allocate(buffer_type, n_bytes)
        if buffer is None:
            return None
        functions = BufferI.from_address(buffer)  # the first member of a ggml_backend_buffer
        free = ctypes.CFUNCTYPE(None, b.Pointer)(functions.free_buffer)

        def forget(address: int) -> None:
            held.pop(address, None)
            note()
            free(address)

        functions.free_buffer = callback(None, b.Pointer)(forget)
        held[buffer] = n_bytes
        note()
        return buffer

    iface.alloc_buffer = callback(b.Pointer, b.Pointer, ctypes.c_size_t)(counted)
    rpc.serve(f"127.0.0.1:{port}", 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
