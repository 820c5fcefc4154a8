import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_llm.errors import BadSplit
from vram_llm.planner.llama_split import device_of_layers, placement_from_counts, placement_of


@pytest.mark.parametrize(
    ("n_layers", "n_gpu_layers", "split", "expected"),
    [
        (4, -1, [1, 1], [0, 0, 0, 1, 1]),
        (4, 5, [3, 2], [0, 0, 0, 1, 1]),
        (4, 99, [2, 3], [0, 0, 1, 1, 1]),
        (4, 2, [1, 1], [-1, -1, -1, 0, 1]),  # the last layer and the output
        (4, 1, [1], [-1, -1, -1, -1, 0]),  # the output alone
        (4, 0, [1, 1], [-1, -1, -1, -1, -1]),
        (4, -1, [], [-1] * 5),
        (3, -1, [0, 1, 0], [1, 1, 1, 1]),
        (80, -1, [0.35, 0.45, 0.20], [0] * 29 + [1] * 36 + [2] * 16),
    ],
)
def test_the_rule(n_layers: int, n_gpu_layers: int, split: list[float], expected: list[int]) -> None:
    assert device_of_layers(n_layers, n_gpu_layers, split) == expected


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any))
def test_whole_counts_come_back_as_they_were(counts: list[int]) -> None:
    n_layers = sum(counts) - 1
    found = device_of_layers(n_layers, -1, counts)
    assert [found.count(i) for i in range(len(counts))] == counts


def test_fractions_do_not_always() -> None:
    wanted = [29, 36, 16]
    rounded = [round(count / 81, 2) for count in wanted]
    assert rounded == [0.36, 0.44, 0.2]
    found = device_of_layers(80, -1, rounded)
    assert [found.count(i) for i in range(3)] != wanted


def test_a_split_of_nothing_is_refused() -> None:
    with pytest.raises(BadSplit, match="every share"):
        device_of_layers(4, -1, [0, 0])


def test_devices_without_anything_are_left_out() -> None:
    placement = placement_of(["a", "b", "c"], [-1, 0, 0, 2])
    assert placement.device_order == ("a", "c")
    assert placement.layers_per_device == (2, 0)
    assert placement.tensor_split == (2, 1)
    assert (placement.output_device, placement.cpu_layers, placement.n_gpu_layers) == ("c", 1, 3)


def test_all_on_the_host() -> None:
    placement = placement_of(["a"], [-1, -1, -1])
    assert placement.device_order == ()
    assert placement.tensor_split == ()
    assert (placement.output_device, placement.cpu_layers, placement.n_gpu_layers) == ("host", 2, 0)


def test_the_output_goes_with_the_last_layers() -> None:
    placement = placement_from_counts(["a", "b", "c"], [2, 1, 0], 5)
    assert placement.output_device == "b"
    assert placement.tensor_split == (2, 2)
    assert placement.cpu_layers == 2
