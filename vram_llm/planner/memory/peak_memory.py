"""Peak bytes of a run of layers' activations."""

from collections.abc import Sequence
from dataclasses import dataclass

from vram_llm.planner.memory.graph_allocator import AllocationGraph
from vram_llm.planner.memory.layer_ops import Operations
from vram_llm.planner.memory.layer_shapes import (
    F32_BYTES,
    HABITS,
    HYBRID_HABITS,
    ID_BYTES,
    LAST_HABITS,
    Block,
    End,
    Habit,
    MicroBatch,
)

OUTPUT = -1  # in place of a block's number

_AT_ONCE = 6  # layers laid out together; more would repeat the same peak
_AFTER_HOST = 12  # in hybrids: later layers fill the holes that the host's last layer left


@dataclass(frozen=True, slots=True)
class GraphInputs:
    """Inputs of a device's first operations."""

    stream_bytes: int  # the residual stream; 0: it has a buffer of its own
    normed_bytes: int = 0  # the normed stream, if the device before has made it
    arrives_from: int | None = None  # number of the host's last block, which the device finishes
    sums_experts: bool = False  # the device adds up that block's experts, even if a shared expert follows
    cache_bytes: int = 0  # KV cache of that block, if the device computes its attention
    window_first: bool = False  # the mask over the window's cells is used first
    states_first: bool = False  # the first layer's states are looked up before the layer before is done
    has_ids: bool = False  # ids of outputs or of sequences, kept to the end
    masks_late: bool = False  # masks come with the first KV cache that is copied from the host


class Peaks:
    """Peak bytes of runs of blocks."""

    def __init__(self, blocks: Sequence[Block], end: End, *, is_hybrid: bool) -> None:
        """The habit with the highest peak counts. The caller may add to `blocks` later."""
        self._blocks = blocks
        self._end = end
        self._is_hybrid = is_hybrid
        self._habits = HYBRID_HABITS if is_hybrid else HABITS
        self._known: dict[tuple[GraphInputs, tuple[int, int], MicroBatch], dict[tuple[object, ...], int]] = {}

    def of(
        self,
        chain: Sequence[int],
        start: GraphInputs,
        masks: tuple[int, int],
        batch: MicroBatch,
        *,
        states_next: bool = False,
    ) -> int:
        """Peak bytes of the run `chain`, given as block numbers.

        `masks` are the bytes of the mask over all cells and of the mask over the window's cells.
        `states_next`: another device looks up states before the last block's experts are all done.
        If inputs have buffers of their own, later blocks begin with only the stream.
        """
        stream_bytes = self._end.n_embd * batch.n_tokens * F32_BYTES
        middle, n_begin = start, _AT_ONCE
        if batch.pipelined:
            middle = GraphInputs(stream_bytes)
        elif start.arrives_from is not None and self._is_hybrid:
            n_begin = _AFTER_HOST
            middle = GraphInputs(stream_bytes, window_first=start.window_first, has_ids=start.has_ids)
        last = self._last_attending(chain) if any(masks) else (-1, -1)
        begin = tuple(chain[:n_begin])
        peak = self._peak(begin, start, masks, (last[0] >= n_begin, last[1] >= n_begin), batch)
        known = self._known.setdefault((middle, masks, batch), {})
        seen = set()
        for i, window in enumerate(zip(*(chain[i:] for i in range(1, _AT_ONCE + 1)), strict=False), 1):
            if window in seen:  # earlier, when the later blocks needed at least as much
                continue
            seen.add(window)
            end = i + _AT_ONCE
            held = (masks[0] * (last[0] >= i), masks[1] * (last[1] >= i))
            goes_on = (last[0] >= end, last[1] >= end)
            key = (window, held, goes_on)
            if key not in known:
                known[key] = self._peak(window, middle, held, goes_on, batch)
            peak = max(peak, known[key])
        if states_next:
            at = max(len(chain) - _AT_ONCE, 0)
            held = (masks[0] * (last[0] >= at), masks[1] * (last[1] >= at))
            window, habits = tuple(chain[at:]), LAST_HABITS
            peak = max(peak, self._peak(window, middle if at else start, held, (False, False), batch, habits))
        return peak

    def _last_attending(self, chain: Sequence[int]) -> tuple[int, int]:
        """Index of the last block that attends to all cells, and of the last with a window; -1 if none."""
        last = [-1, -1]
        for i in range(len(chain) - 1, -1, -1):
            if chain[i] != OUTPUT and self._blocks[chain[i]].attends:
                is_windowed = self._blocks[chain[i]].is_windowed
                last[is_windowed] = max(last[is_windowed], i)
                if min(last) >= 0:
                    break
        return last[0], last[1]

    def _peak(
        self,
        window: tuple[int, ...],
        start: GraphInputs,
        masks: tuple[int, int],
        goes_on: tuple[bool, bool],
        batch: MicroBatch,
        habits: tuple[Habit, ...] = (),
    ) -> int:
        known = self._known.setdefault((start, masks, batch), {})
        key = (window, goes_on, habits)
        if key not in known:
            known[key] = max(
                self._measure(habit, window, start, masks, goes_on, batch) for habit in habits or self._habits
            )
        return known[key]

    def _measure(
        self,
        habit: Habit,
        window: tuple[int, ...],
        start: GraphInputs,
        mask_bytes: tuple[int, int],
        goes_on: tuple[bool, bool],
        batch: MicroBatch,
    ) -> int:
        graph = AllocationGraph()
        operations = Operations(graph, batch, habit)
        last = None if start.arrives_from is None else self._blocks[start.arrives_from]
        opening = None if window[0] == OUTPUT else self._blocks[window[0]]
        # inputs are allocated in the order of their first use
        ids_first = start.states_first or start.sums_experts
        if start.states_first and opening:
            graph.add(ID_BYTES)
            operations.look_up(opening)
        first = [graph.add(start.normed_bytes or start.stream_bytes)]
        if last:
            first = operations.incoming(last, sums_experts=start.sums_experts, after=opening)
        attends_first = opening is None or opening.attends
        recurs_first = opening is not None and opening.state_bytes > 0
        if start.has_ids and recurs_first and not ids_first:
            graph.add(ID_BYTES)
        if start.normed_bytes and not attends_first:
            first.append(graph.add(start.stream_bytes))
        operations.mask_bytes = mask_bytes
        for is_windowed in () if start.masks_late else (start.window_first, not start.window_first):
            operations.mask(is_windowed)
        normed, stream = None, first[-1]
        if start.normed_bytes:
            normed, stream = first[0], first[1] if not attends_first else graph.add(start.stream_bytes)
        if start.has_ids and not recurs_first:
            graph.add(ID_BYTES)
        if last:
            if start.cache_bytes:
                operations.attention_left(last, start.cache_bytes)
            stream = operations.arrival(last, first, opening)
        for i, number in enumerate(window):
            if number == OUTPUT:
                arrived = i == 0 and start.arrives_from is None
                operations.output(self._end, stream, normed=arrived)
            else:
                after = next((self._blocks[n] for n in window[i + 1 : i + 2] if n != OUTPUT), None)
                stream = operations.layer(self._blocks[number], stream, normed, after)
                normed = None
        for is_windowed, is_needed in zip((False, True), goes_on, strict=True):
            if is_needed:
                graph.keep(operations.mask(is_windowed))
        return graph.peak()
