"""Operations on a graph that layers of all kinds have."""

from vram_llm.planner.memory.graph_allocator import AllocationGraph
from vram_llm.planner.memory.layer_shapes import F32_BYTES, MicroBatch, OperationOrder


class GraphOperations:
    """Adds operations to a graph. Activations are f32."""

    def __init__(self, graph: AllocationGraph, batch: MicroBatch, order: OperationOrder) -> None:
        self._graph = graph
        self._batch = batch
        self._order = order

    def _computed_elsewhere(self, n_bytes: int, *sources: int) -> int:
        """Add a result that another device computes from `sources`, and its copy on this device."""
        self._graph.add(0, *sources)
        return self._graph.add(0 if self._batch.pipelined else n_bytes)

    def _add(self, width: int, n_rows: int, *sources: int, in_place: int = 0) -> int:
        """Add an operation with `n_rows` rows of `width` elements; see AllocationGraph.add."""
        return self._graph.add(width * n_rows * F32_BYTES, *sources, in_place=in_place)
