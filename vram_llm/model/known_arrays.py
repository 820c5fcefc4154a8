"""Long metadata arrays of a file that has been read: its siblings have the same.

The quantisations of a model have one vocabulary, which is most of a header: some megabytes and 10^5 strings,
whose lengths are known only one by one. A sibling's array is taken for the same if it has the same key, type
and length, and if the same bytes begin it. Planning uses only its length.
"""

from dataclasses import dataclass, field

Buffer = bytes | bytearray | memoryview

LEAST_BYTES = 4096  # shorter arrays are not kept: their equality would show too little
MAX_BYTES = 64 * 2**20  # of all arrays; further ones are not kept


@dataclass(frozen=True, slots=True)
class ArrayStart:
    """An array that a reader has come to: its first element is at byte `position` of the file."""

    key: str
    type_id: int  # GGUF's, of an element
    count: int
    position: int


@dataclass(frozen=True, slots=True)
class KnownArrays:
    """The bytes of arrays by key, type and number of elements. Several threads may use it."""

    _arrays: dict[tuple[str, int, int], bytes] = field(default_factory=dict)

    def add(self, start: ArrayStart, data: Buffer, end: int) -> None:
        """Keep an array that ends before byte `end` of `data`, unless it is short or there is no room."""
        room = MAX_BYTES - sum(map(len, list(self._arrays.values())))
        if LEAST_BYTES <= end - start.position <= room:
            self._arrays[start.key, start.type_id, start.count] = bytes(data[start.position : end])

    def end_of(self, start: ArrayStart, data: Buffer) -> int | None:
        """The end of the array in `data`; None if it is not known, or not all of it is there."""
        known = self._known(start)
        end = start.position + len(known)
        return end if known and data[start.position : end] == known else None

    def rest_of(self, start: ArrayStart, data: bytes) -> bytes:
        """The part of the array after the end of `data`; empty if it is not known."""
        here, known = data[start.position :], self._known(start)
        return known[len(here) :] if len(here) >= LEAST_BYTES and known.startswith(here) else b""

    def _known(self, start: ArrayStart) -> bytes:
        return self._arrays.get((start.key, start.type_id, start.count), b"")
