"""The peak bytes of the activations of a few layers, which are allocated together.

Results are kept while the process runs: plans for other contexts or cards ask for the same windows.
"""

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from vram_llm.planner.memory.graph_allocator import AllocationGraph
from vram_llm.planner.memory.layer_ops import Operations
from vram_llm.planner.memory.layer_shapes import (
    ID_BYTES,
    GraphLayer,
    MicroBatch,
    OperationOrder,
    OutputShape,
)

_KEPT_WINDOWS = 100_000  # some 60 MB
_ANY_MASK_BYTES = 256


class GraphInputs(NamedTuple):
    """The inputs of a device's first operations."""

    stream_bytes: int  # of the residual stream; 0: it has a buffer of its own
    normed_bytes: int = 0  # of the normed stream, if the previous device has computed it
    host_layer: GraphLayer | None = None  # layer of the host that the device finishes; None: none
    sums_experts: bool = (
        False  # whether the device sums that layer's experts although a shared expert follows
    )
    cache_bytes: int = 0  # of that layer's KV cache, if the device computes its attention
    window_first: bool = False  # whether the mask over the window's cells is used first
    states_first: bool = False  # whether the first layer's states are read before the previous layer ends
    has_ids: bool = False  # whether ids of outputs or of sequences are kept to the end
    masks_late: bool = False  # whether masks are allocated with the first KV cache copied from the host


class GraphWindow(NamedTuple):
    """Consecutive layers of a graph, the output among them, and what decides the memory of their results."""

    layers: tuple[GraphLayer | OutputShape, ...]
    start: GraphInputs
    masks: tuple[int, int]  # bytes of the mask over all cells, and of the mask over the window's cells
    needed_later: tuple[bool, bool]  # whether later layers use these masks
    batch: MicroBatch


def window_peak(window: GraphWindow, order: OperationOrder) -> int:
    """The peak bytes of a window in one order.

    Masks that are allocated before all results and needed after them only move the results, which take the
    same holes with masks of any size. So do ids after such masks. Windows that differ in these alone are
    measured once.
    """
    layers, start, masks, needed_later, batch = window
    if batch.flash:
        layers = tuple(map(_without_cells, layers))
    moved_bytes = 0
    if not (start.masks_late or start.states_first or start.host_layer):
        is_fixed = [n_bytes > 0 and needed for n_bytes, needed in zip(masks, needed_later, strict=True)]
        for i in (0, 1):
            if is_fixed[i]:
                moved_bytes += masks[i] - _ANY_MASK_BYTES
        masks = (_ANY_MASK_BYTES if is_fixed[0] else masks[0], _ANY_MASK_BYTES if is_fixed[1] else masks[1])
        has_states = isinstance(layers[0], GraphLayer) and layers[0].state_bytes > 0
        before_ids = not start.window_first if masks[not start.window_first] else start.window_first
        if start.has_ids and is_fixed[before_ids] and not start.normed_bytes and not has_states:
            start, moved_bytes = start._replace(has_ids=False), moved_bytes + ID_BYTES
    return _measured_peak(GraphWindow(layers, start, masks, needed_later, batch), order) + moved_bytes


@lru_cache(maxsize=_KEPT_WINDOWS)
def _without_cells(layer: GraphLayer | OutputShape) -> GraphLayer | OutputShape:
    """`layer` without the number of cells, which flash attention's result does not depend on."""
    return layer if isinstance(layer, OutputShape) else replace(layer, n_cells=0, n_value_cells=0)


@lru_cache(maxsize=_KEPT_WINDOWS)
def _measured_peak(window: GraphWindow, order: OperationOrder) -> int:
    start, layers = window.start, window.layers
    graph = AllocationGraph()
    operations = Operations(graph, window.batch, order)
    opening = layers[0] if isinstance(layers[0], GraphLayer) else None
    # inputs are allocated in the order of their first use
    ids_first = start.states_first or start.sums_experts
    if start.states_first and opening:
        graph.add(ID_BYTES)
        operations.look_up_states(opening)
    first = [graph.add(start.normed_bytes or start.stream_bytes)]
    if start.host_layer:
        first = operations.inputs_from_host(
            start.host_layer, sums_experts=start.sums_experts, next_layer=opening
        )
    has_attention = opening is None or opening.has_attention
    has_recurrence = opening is not None and opening.state_bytes > 0
    if start.has_ids and has_recurrence and not ids_first:
        graph.add(ID_BYTES)
    if start.normed_bytes and not has_attention:
        first.append(graph.add(start.stream_bytes))
    operations.mask_bytes = window.masks
    for is_windowed in () if start.masks_late else (start.window_first, not start.window_first):
        operations.mask(is_windowed)
    normed, stream = None, first[-1]
    if start.normed_bytes:
        normed, stream = first[0], first[1] if not has_attention else graph.add(start.stream_bytes)
    if start.has_ids and not has_recurrence:
        graph.add(ID_BYTES)
    if start.host_layer:
        if start.cache_bytes:
            operations.host_attention(start.host_layer, start.cache_bytes)
        stream = operations.finish_host_layer(start.host_layer, first, opening)
    for i, layer in enumerate(layers):
        if isinstance(layer, OutputShape):
            operations.output(layer, stream, normed=i == 0 and start.host_layer is None)
        else:
            next_layer = next((each for each in layers[i + 1 : i + 2] if isinstance(each, GraphLayer)), None)
            stream = operations.layer(layer, stream, normed, next_layer)
            normed = None
    for is_windowed, is_needed in zip((False, True), window.needed_later, strict=True):
        if is_needed:
            graph.keep(operations.mask(is_windowed))
    return graph.peak()
