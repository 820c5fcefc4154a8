"""The peak bytes of the activations of a run of layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from vram_llm.planner.memory.graph_allocator import AllocationGraph
from vram_llm.planner.memory.layer_ops import Operations
from vram_llm.planner.memory.layer_shapes import (
    F32_BYTES,
    HYBRID_ORDERS,
    ID_BYTES,
    ORDERS,
    ORDERS_BEFORE_STATES,
    GraphLayer,
    MicroBatch,
    OperationOrder,
    OutputShape,
)

OUTPUT = -1  # in place of a graph layer's number

_WINDOW = 6  # layers that are allocated together; more would repeat the same peak
_WINDOW_AFTER_HOST = 12  # of hybrids: later layers fill the holes that the host's last layer leaves


@dataclass(frozen=True, slots=True)
class GraphInputs:
    """The inputs of a device's first operations."""

    stream_bytes: int  # of the residual stream; 0: it has a buffer of its own
    normed_bytes: int = 0  # of the normed stream, if the previous device has computed it
    host_layer: int | None = None  # graph layer of the host that the device finishes; None: none
    sums_experts: bool = (
        False  # whether the device sums that layer's experts although a shared expert follows
    )
    cache_bytes: int = 0  # of that layer's KV cache, if the device computes its attention
    window_first: bool = False  # whether the mask over the window's cells is used first
    states_first: bool = False  # whether the first layer's states are read before the previous layer ends
    has_ids: bool = False  # whether ids of outputs or of sequences are kept to the end
    masks_late: bool = False  # whether masks are allocated with the first KV cache copied from the host


class PeakMemory:
    """Computes the peak bytes of runs of layers. Of all orders of operations, the highest peak counts."""

    def __init__(self, layers: Sequence[GraphLayer], output: OutputShape, *, is_hybrid: bool) -> None:
        """`layers` are graph layers by number; the caller may append more."""
        self._layers = layers
        self._output = output
        self._is_hybrid = is_hybrid
        self._orders = HYBRID_ORDERS if is_hybrid else ORDERS
        self._cache: dict[tuple[GraphInputs, tuple[int, int], MicroBatch], dict[tuple[object, ...], int]] = {}

    def peak_bytes(
        self,
        run: Sequence[int],
        start: GraphInputs,
        masks: tuple[int, int],
        batch: MicroBatch,
        *,
        states_next: bool = False,
    ) -> int:
        """Peak bytes of a run of layers, given by the numbers of their graph layers and OUTPUT.

        `start` are the inputs of the run's first layer. `masks` are the bytes of the mask over all cells and
        of the mask over the window's cells. With `states_next`, another device reads states before the run's
        last experts are computed. Windows of `_WINDOW` layers are measured; a window that does not begin the
        run has the inputs `middle`.
        """
        stream_bytes = self._output.n_embd * batch.n_tokens * F32_BYTES
        middle, n_begin = start, _WINDOW
        if batch.pipelined:
            middle = GraphInputs(stream_bytes)
        elif start.host_layer is not None and self._is_hybrid:
            n_begin = _WINDOW_AFTER_HOST
            middle = GraphInputs(stream_bytes, window_first=start.window_first, has_ids=start.has_ids)
        last = self._last_with_attention(run) if any(masks) else (-1, -1)
        begin = tuple(run[:n_begin])
        peak = self._peak(begin, start, masks, (last[0] >= n_begin, last[1] >= n_begin), batch)
        peaks = self._cache.setdefault((middle, masks, batch), {})
        measured = set()
        for i, window in enumerate(zip(*(run[i:] for i in range(1, _WINDOW + 1)), strict=False), 1):
            if window in measured:  # earlier in the run, where the masks needed at least as much
                continue
            measured.add(window)
            end = i + _WINDOW
            needed_masks = (masks[0] * (last[0] >= i), masks[1] * (last[1] >= i))
            needed_later = (last[0] >= end, last[1] >= end)
            key = (window, needed_masks, needed_later)
            if key not in peaks:
                peaks[key] = self._peak(window, middle, needed_masks, needed_later, batch)
            peak = max(peak, peaks[key])
        if states_next:
            i = max(len(run) - _WINDOW, 0)
            window, inputs = tuple(run[i:]), middle if i else start
            needed_masks = (masks[0] * (last[0] >= i), masks[1] * (last[1] >= i))
            last_peak = self._peak(window, inputs, needed_masks, (False, False), batch, ORDERS_BEFORE_STATES)
            peak = max(peak, last_peak)
        return peak

    def _last_with_attention(self, run: Sequence[int]) -> tuple[int, int]:
        """Index of the run's last layer with attention over all cells, and with a window; -1 if none."""
        last = [-1, -1]
        for i in range(len(run) - 1, -1, -1):
            if run[i] != OUTPUT and self._layers[run[i]].has_attention:
                is_windowed = self._layers[run[i]].is_windowed
                last[is_windowed] = max(last[is_windowed], i)
                if min(last) >= 0:
                    break
        return last[0], last[1]

    def _peak(
        self,
        window: tuple[int, ...],
        start: GraphInputs,
        masks: tuple[int, int],
        needed_later: tuple[bool, bool],
        batch: MicroBatch,
        orders: tuple[OperationOrder, ...] = (),
    ) -> int:
        """The highest peak of a window over all orders.

        `needed_later` is whether later layers use the mask over all cells, and the mask over the window's.
        """
        peaks = self._cache.setdefault((start, masks, batch), {})
        key = (window, needed_later, orders)
        if key not in peaks:
            peaks[key] = max(
                self._measure(order, window, start, masks, needed_later, batch)
                for order in orders or self._orders
            )
        return peaks[key]

    def _measure(
        self,
        order: OperationOrder,
        window: tuple[int, ...],
        start: GraphInputs,
        mask_bytes: tuple[int, int],
        needed_later: tuple[bool, bool],
        batch: MicroBatch,
    ) -> int:
        """The peak of a window in one order."""
        graph = AllocationGraph()
        operations = Operations(graph, batch, order)
        host_layer = None if start.host_layer is None else self._layers[start.host_layer]
        opening = None if window[0] == OUTPUT else self._layers[window[0]]
        # inputs are allocated in the order of their first use
        ids_first = start.states_first or start.sums_experts
        if start.states_first and opening:
            graph.add(ID_BYTES)
            operations.look_up_states(opening)
        first = [graph.add(start.normed_bytes or start.stream_bytes)]
        if host_layer:
            first = operations.inputs_from_host(
                host_layer, sums_experts=start.sums_experts, next_layer=opening
            )
        has_attention = opening is None or opening.has_attention
        has_recurrence = opening is not None and opening.state_bytes > 0
        if start.has_ids and has_recurrence and not ids_first:
            graph.add(ID_BYTES)
        if start.normed_bytes and not has_attention:
            first.append(graph.add(start.stream_bytes))
        operations.mask_bytes = mask_bytes
        for is_windowed in () if start.masks_late else (start.window_first, not start.window_first):
            operations.mask(is_windowed)
        normed, stream = None, first[-1]
        if start.normed_bytes:
            normed, stream = first[0], first[1] if not has_attention else graph.add(start.stream_bytes)
        if start.has_ids and not has_recurrence:
            graph.add(ID_BYTES)
        if host_layer:
            if start.cache_bytes:
                operations.host_attention(host_layer, start.cache_bytes)
            stream = operations.finish_host_layer(host_layer, first, opening)
        for i, number in enumerate(window):
            if number == OUTPUT:
                operations.output(self._output, stream, normed=i == 0 and start.host_layer is None)
            else:
                next_layer = next((self._layers[n] for n in window[i + 1 : i + 2] if n != OUTPUT), None)
                stream = operations.layer(self._layers[number], stream, normed, next_layer)
                normed = None
        for is_windowed, is_needed in zip((False, True), needed_later, strict=True):
            if is_needed:
                graph.keep(operations.mask(is_windowed))
        return graph.peak()
