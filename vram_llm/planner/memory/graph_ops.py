"""The operations of a layer on a graph: those of every kind of layer."""

from vram_llm.planner.memory.graph_allocator import AllocationGraph
from vram_llm.planner.memory.layer_shapes import F32_BYTES, Habit, MicroBatch


class GraphOperations:
    """Adds operations to a graph. Activations are f32."""

    def __init__(self, graph: AllocationGraph, batch: MicroBatch, habit: Habit) -> None:
        self._graph = graph
        self._batch = batch
        self._habit = habit

    def _returned(self, n_bytes: int, *sources: int) -> int:
        """A result that another device has computed from `sources`."""
        self._graph.add(0, *sources)
        return self._graph.add(0 if self._batch.pipelined else n_bytes)

    def _add(self, width: int, n_rows: int, *sources: int, in_place: int = 0) -> int:
        return self._graph.add(width * n_rows * F32_BYTES, *sources, in_place=in_place)
