"""The peak bytes of the activations of a run of layers."""

from collections.abc import Sequence

from vram_llm.planner.memory.layer_shapes import (
    F32_BYTES,
    HYBRID_ORDERS,
    ORDERS,
    ORDERS_BEFORE_STATES,
    GraphLayer,
    MicroBatch,
    OperationOrder,
    OutputShape,
)
from vram_llm.planner.memory.window_peak import GraphInputs, GraphWindow, window_peak

OUTPUT = -1  # in place of a graph layer's number

_WINDOW = 6  # layers that are allocated together; more would repeat the same peak
_WINDOW_AFTER_HOST = 12  # of hybrids: later layers fill the holes that the host's last layer leaves


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
            layers = tuple(self._output if number == OUTPUT else self._layers[number] for number in window)
            graph_window = GraphWindow(layers, start, masks, needed_later, batch)
            peaks[key] = max(window_peak(graph_window, order) for order in orders or self._orders)
        return peaks[key]
