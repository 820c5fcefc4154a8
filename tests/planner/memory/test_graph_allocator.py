"""The peak of small graphs, whose memory is laid out by hand with the rules of ggml's allocator."""

from vram_llm.planner.memory.graph_allocator import AllocationGraph


def test_memory_is_freed_after_the_last_use() -> None:
    graph = AllocationGraph()
    one = graph.add(4)
    two = graph.add(6, one)
    graph.add(4, two)  # in place of the first
    assert graph.peak() == 10


def test_a_hole_that_is_too_small_is_skipped() -> None:
    graph = AllocationGraph()
    one = graph.add(4)
    two = graph.add(6, one)
    graph.add(5, two)
    assert graph.peak() == 15


def test_the_smallest_hole_that_fits_is_taken() -> None:
    graph = AllocationGraph()
    large, wall, small, end = graph.add(8), graph.add(1), graph.add(4), graph.add(1)
    graph.add(0, large, small)
    graph.add(4)  # in the smaller hole
    graph.add(8)
    graph.keep(wall)
    graph.keep(end)
    assert graph.peak() == 14


def test_neighbouring_holes_are_joined() -> None:
    graph = AllocationGraph()
    parts = [graph.add(3) for _ in range(3)]
    wall = graph.add(1)
    graph.add(0, parts[0], parts[2], parts[1])
    graph.add(9)
    graph.keep(wall)
    assert graph.peak() == 10


def test_an_operation_in_place_needs_no_memory() -> None:
    graph = AllocationGraph()
    one = graph.add(5)
    two = graph.add(5, one, in_place=1)
    graph.add(5, two, in_place=1)
    assert graph.peak() == 5


def test_a_source_that_is_needed_again_is_not_overwritten() -> None:
    graph = AllocationGraph()
    one = graph.add(5)
    two = graph.add(5, one, in_place=1)
    graph.add(5, two, one, in_place=2)
    assert graph.peak() == 10


def test_outputs_are_not_freed() -> None:
    graph = AllocationGraph()
    one = graph.add(5)
    graph.keep(one)
    two = graph.add(5, one, in_place=1)
    graph.add(5, two)
    assert graph.peak() == 15
