"""The peak memory of a sequence of operations with ggml's graph allocator.

The rules are those of ggml_gallocr_alloc_graph_impl and ggml_dyn_tallocr (ggml/src/ggml-alloc.c of
llama-cpp-python 0.3.36). A result takes the smallest hole that is large enough, or the buffer grows. An
operation that may work in place takes the memory of a source that no other operation needs. A source is freed
after its last use.
"""

from bisect import bisect_left
from dataclasses import dataclass, field

_UNLIMITED = 2**62


@dataclass(slots=True)
class AllocationGraph:
    """Operations in the order of their execution. A value is the number of the operation that computes it."""

    _steps: list[tuple[int, tuple[int, ...], int]] = field(default_factory=list)
    _kept: list[int] = field(default_factory=list)

    def add(self, n_bytes: int, *sources: int, in_place: int = 0) -> int:
        """Add an operation with a result of `n_bytes`, and return its value.

        `n_bytes` is 0 for an operation that only reads, or that writes to the KV cache. The result may take
        the memory of one of the first `in_place` sources, which have the same size.
        """
        self._steps.append((n_bytes, sources, in_place))
        return len(self._steps) - 1

    def keep(self, value: int) -> None:
        """Never free this value, as llama.cpp does with outputs and with values that no operation uses."""
        self._kept.append(value)

    def peak(self) -> int:
        """The most bytes that are allocated at the same time."""
        uses = [0] * len(self._steps)
        for value in self._kept:
            uses[value] += 1
        for _, sources, _ in self._steps:
            for source in sources:
                uses[source] += 1
        buffer, offsets = _GrowingBuffer(), [-1] * len(self._steps)  # -1: no memory
        for value, (n_bytes, sources, in_place) in enumerate(self._steps):
            reused = None
            if in_place:
                reused = next((s for s in sources[:in_place] if offsets[s] >= 0 and uses[s] == 1), None)
            if reused is not None:
                offsets[value], offsets[reused] = offsets[reused], -1
            elif n_bytes:
                offsets[value] = buffer.allocate(n_bytes)
            for source in sources:
                uses[source] -= 1
                if not uses[source] and offsets[source] >= 0:
                    buffer.free(offsets[source], self._steps[source][0])
        return buffer.peak


class _GrowingBuffer:
    """A buffer with its holes in the order of their offsets; the last hole is unlimited."""

    __slots__ = ("_offsets", "_sizes", "peak")

    def __init__(self) -> None:
        self._offsets, self._sizes = [0], [_UNLIMITED]  # of the holes
        self.peak = 0

    def allocate(self, n_bytes: int) -> int:
        """Allocate `n_bytes` and return their offset."""
        offsets, sizes = self._offsets, self._sizes
        best, best_size = -1, _UNLIMITED
        if len(sizes) > 1:
            for i, size in enumerate(sizes):
                if n_bytes <= size <= best_size:
                    best, best_size = i, size
        offset, size = offsets[best], sizes[best]
        if size == n_bytes:
            del offsets[best], sizes[best]
            return offset
        end = offsets[best] = offset + n_bytes
        sizes[best] = size - n_bytes
        if end > self.peak:
            self.peak = end
        return offset

    def free(self, offset: int, n_bytes: int) -> None:
        """Free `n_bytes` at `offset`; neighbouring holes become one."""
        offsets, sizes, end = self._offsets, self._sizes, offset + n_bytes
        i = bisect_left(offsets, end)
        joins_before = i > 0 and offsets[i - 1] + sizes[i - 1] == offset
        if offsets[i] == end:
            if joins_before:
                sizes[i - 1] += n_bytes + sizes[i]
                del offsets[i], sizes[i]
            else:
                offsets[i] = offset
                sizes[i] += n_bytes
        elif joins_before:
            sizes[i - 1] += n_bytes
        else:
            offsets.insert(i, offset)
            sizes.insert(i, n_bytes)
