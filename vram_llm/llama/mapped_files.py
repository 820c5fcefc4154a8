"""Files that this process has mapped (/proc/self/maps), and advice to the kernel on parts of them."""

import ctypes
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
_libc.mlock.argtypes = [ctypes.c_size_t, ctypes.c_size_t]


class MappedPart(NamedTuple):
    """Whole pages of a mapped file."""

    address: int
    n_bytes: int
    descriptor: int  # of the file
    offset: int  # in the file

    def pieces(self, n_bytes: int) -> Iterator["MappedPart"]:
        """The part in pieces of at most `n_bytes`, a multiple of the page size."""
        for first in range(0, self.n_bytes, n_bytes):
            size = min(n_bytes, self.n_bytes - first)
            yield MappedPart(self.address + first, size, self.descriptor, self.offset + first)

    def will_need(self) -> None:
        """Ask the kernel to read it soon."""
        _libc.madvise(self.address, self.n_bytes, mmap.MADV_WILLNEED)

    def drop(self) -> None:
        """Take it out of memory; whoever reads it again gets it from the disk."""
        _libc.madvise(self.address, self.n_bytes, mmap.MADV_DONTNEED)  # a mapped page stays in the cache
        os.posix_fadvise(self.descriptor, self.offset, self.n_bytes, os.POSIX_FADV_DONTNEED)

    def lock(self) -> None:
        """Read it, and keep it in memory. Raises OSError if the system does not allow it."""
        if _libc.mlock(self.address, self.n_bytes):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


class _Mapping(NamedTuple):
    start: int
    end: int
    offset: int
    path: Path


def _mapping(words: list[str]) -> _Mapping:
    """A line of /proc/self/maps: bounds, rights, offset, device, inode, path."""
    start, _, end = words[0].partition("-")
    return _Mapping(int(start, 16), int(end, 16), int(words[2], 16), Path(words[5]))


class MappedFiles:
    """The mapped files as they are now, opened for reading where they are asked for. Call `close`."""

    def __init__(self) -> None:
        lines = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
        files = (words for words in lines if len(words) == 6 and words[5].startswith("/"))
        self._mappings = sorted(_mapping(words) for words in files)
        self._descriptors: dict[Path, int] = {}

    def offset(self, address: int) -> int | None:
        """The place in its file of what is mapped at an address; None if no file is mapped there."""
        mapping = self._mapping(address)
        return None if mapping is None else mapping.offset + address - mapping.start

    def part(self, address: int, n_bytes: int) -> MappedPart | None:
        """The whole pages inside these bytes; None if there are none, or if no file is mapped there."""
        first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (address + n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        mapping = self._mapping(first)
        if mapping is None or not first < end <= mapping.end:
            return None
        if mapping.path not in self._descriptors:
            self._descriptors[mapping.path] = os.open(mapping.path, os.O_RDONLY)
        offset = mapping.offset + first - mapping.start
        return MappedPart(first, end - first, self._descriptors[mapping.path], offset)

    def _mapping(self, address: int) -> _Mapping | None:
        index = bisect_right(self._mappings, address, key=lambda each: each.start) - 1
        found = self._mappings[index] if index >= 0 else None
        return None if found is None or address >= found.end else found

    def close(self) -> None:
        """Close the files; they stay mapped."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}
