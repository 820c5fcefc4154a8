"""How much memory a run of operations holds at its peak under ggml's graph allocator.

It restates ggml_gallocr_alloc_graph_impl and ggml_dyn_tallocr of ggml/src/ggml-alloc.c (llama-cpp-python
0.3.36). A result takes the smallest hole it fits in, or grows the buffer. An operation that may work in place
takes over its source if no other operation needs that source. A source is freed after its last use.
"""

from dataclasses import dataclass, field

_ENDLESS = 2**62


@dataclass(slots=True)
class AllocationGraph:
    """Operations in the order they run. A value is the number of the operation that made it."""

    _steps: list[tuple[int, tuple[int, ...], int]] = field(default_factory=list)
    _kept: list[int] = field(default_factory=list)

    def add(self, n_bytes: int, *sources: int, in_place: int = 0) -> int:
        """Add an operation with a result of `n_bytes`; 0 if it only reads or writes to the cache.

        The result may take the place of one of the first `in_place` sources, which are all as large as it.
        """
        self._steps.append((n_bytes, sources, in_place))
        return len(self._steps) - 1

    def keep(self, value: int) -> None:
        """Never free this value. llama.cpp never frees its outputs, nor a value that no operation uses."""
        self._kept.append(value)

    def peak(self) -> int:
        """Bytes held at most."""
        uses = [0] * len(self._steps)
        for value in self._kept:
            uses[value] += 1
        for _, sources, _ in self._steps:
            for source in sources:
                uses[source] += 1
        arena, at = _Arena(), [-1] * len(self._steps)  # -1: holds nothing
        for value, (n_bytes, sources, in_place) in enumerate(self._steps):
            taken = next((s for s in sources[:in_place] if at[s] >= 0 and uses[s] == 1), None)
            if taken is not None:
                at[value], at[taken] = at[taken], -1
            elif n_bytes:
                at[value] = arena.take(n_bytes)
            for source in sources:
                uses[source] -= 1
                if not uses[source] and at[source] >= 0:
                    arena.give(at[source], self._steps[source][0])
        return arena.peak


class _Arena:
    """One buffer: its holes by offset, the last of them endless."""

    __slots__ = ("_holes", "peak")

    def __init__(self) -> None:
        self._holes = [(0, _ENDLESS)]  # offset and size
        self.peak = 0

    def take(self, n_bytes: int) -> int:
        """Take `n_bytes` and return their offset."""
        holes = self._holes
        best, least = len(holes) - 1, _ENDLESS
        for i in range(best):
            if n_bytes <= holes[i][1] <= least:
                best, least = i, holes[i][1]
        offset, size = holes[best]
        if size == n_bytes:
            del holes[best]
        else:
            holes[best] = (offset + n_bytes, size - n_bytes)
        self.peak = max(self.peak, offset + n_bytes)
        return offset

    def give(self, offset: int, n_bytes: int) -> None:
        """Free `n_bytes` at `offset`; neighbouring holes become one."""
        holes, end = self._holes, offset + n_bytes
        i = next(i for i, hole in enumerate(holes) if hole[0] >= end)
        if holes[i][0] == end:
            end += holes[i][1]
            del holes[i]
        if i and sum(holes[i - 1]) == offset:
            offset = holes[i - 1][0]
            i -= 1
            del holes[i]
        holes.insert(i, (offset, end - offset))
