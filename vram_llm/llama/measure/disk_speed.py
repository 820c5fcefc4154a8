"""How fast a disk reads a model's file, mapped and in the order of the file, as decode steps read it."""

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vram_llm.llama.mapped_files import MappedPart
from vram_llm.llama.read_ahead import REQUEST_BYTES
from vram_llm.units import MIB

SECONDS = 4.0
LEAST_BYTES = 64 * MIB
"""The smallest file that shows the speed of its disk."""
_BLOCK_BYTES = 32 * MIB  # read ahead while the block before it is touched
_FROM_DISK = 0.9  # share of the bytes that must have come from the disk


def disk_bytes_per_s(
    path: Path, seconds: float | None = None, on_progress: Callable[[float], None] = lambda _: None
) -> float | None:
    """Bytes per second that the disk reads of a file, for `seconds` (SECONDS) at most.

    None if the file is too small, or if its pages stay in memory because another program uses them. Raises
    OSError if it cannot be read.
    """
    seconds = seconds or SECONDS
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size // _BLOCK_BYTES * _BLOCK_BYTES
        if size < LEAST_BYTES:
            return None
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)  # as llama.cpp does
        mapped = mmap.mmap(file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ)
        return _read(np.frombuffer(mapped, np.uint8), file.fileno(), seconds, on_progress)


def _read(
    pages: "np.ndarray[tuple[int], np.dtype[np.uint8]]",
    descriptor: int,
    seconds: float,
    on_progress: Callable[[float], None],
) -> float | None:
    whole = MappedPart(pages.ctypes.data, len(pages), descriptor, 0)
    whole.drop()
    blocks = list(whole.pieces(_BLOCK_BYTES))
    from_disk, began, touched = _bytes_from_disk(), time.perf_counter(), 0
    _request(blocks[0])
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if following is not None:
            _request(following)
        pages[block.offset : block.offset + block.n_bytes : mmap.PAGESIZE].max()  # waits for the disk
        touched += block.n_bytes
        block.drop()
        took = time.perf_counter() - began
        on_progress(min(max(took / seconds, touched / len(pages)), 1.0))
        if took > seconds and following is not None:
            touched += following.n_bytes  # has been asked for
            pages[following.offset : following.offset + following.n_bytes : mmap.PAGESIZE].max()
            following.drop()
            break
    took = time.perf_counter() - began
    return touched / took if _bytes_from_disk() - from_disk >= _FROM_DISK * touched else None


def _request(block: MappedPart) -> None:
    for request in block.pieces(REQUEST_BYTES):
        request.will_need()


def _bytes_from_disk() -> int:
    """Bytes that this process has read from disks so far (proc(5))."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))
