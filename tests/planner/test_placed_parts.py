"""Parts of layers on the host and on other devices, in counts and in words."""

import pytest

from vram_llm.model.tensors import LayerPart
from vram_llm.planner.llama_split import placement_of
from vram_llm.planner.overrides import Override
from vram_llm.planner.placed_parts import EXPERTS, FFN, OTHER, PlacedPart, listed, on_host, placed_parts
from vram_llm.planner.types import Placement, PlannedModel

WHOLE, UP, DOWN = LayerPart.EXPERTS, LayerPart.EXPERTS_UP, LayerPart.EXPERTS_DOWN


def model(*, expert_layers: range = range(0), ffn_layers: range = range(0)) -> PlannedModel:
    return PlannedModel(
        path="m.gguf", name="m", architecture="a", quantization="q", n_layers=10, total_bytes=1,
        expert_layers=tuple(expert_layers), ffn_layers=tuple(ffn_layers),
    )  # fmt: skip


def placed(*overrides: Override, n_host: int = 0) -> Placement:
    """Ten layers: `n_host` on the host, up to layer 5 on A, the others and the output on B."""
    assignment = [-1] * n_host + [0] * (5 - n_host) + [1] * 6
    return placement_of(["A", "B", "C"], assignment, overrides)


@pytest.mark.parametrize(
    ("placement", "phrase"),
    [
        (placed(), ""),
        (placed(n_host=1), "1 of 10 layers"),
        (placed(Override.of(WHOLE, range(4), "host")), "the experts of 4 of 10 layers"),
        (placed(Override.of(WHOLE, range(4), "host"), n_host=3), "3 of 10 layers and the experts of 1 more"),
        (placed(Override.of(WHOLE, range(4), "C")), ""),
        (
            placed(Override.of(WHOLE, range(4), "host"), Override.of(UP, [4], "host")),
            "the experts of 4 of 10 layers and part of 1 more",
        ),
        (
            placed(Override.of(UP, [4], "host"), Override.of(DOWN, [4], "host")),
            "the experts of 1 of 10 layers",
        ),
        (placed(Override.of(LayerPart.FFN, [2], "host")), "the feed-forward weights of 1 of 10 layers"),
        (
            placed(Override.of(LayerPart.FFN_DOWN, [2, 3], "host"), n_host=1),
            "1 of 10 layers and part of the feed-forward weights of 2 more",
        ),
        (
            placed(Override.of(WHOLE, [2], "host"), Override(pattern="x", device="host", layers=(2, 7))),
            "the experts of 1 of 10 layers and some weights of 2",
        ),
    ],
)  # fmt: skip
def test_what_the_host_has_in_words(placement: Placement, phrase: str) -> None:
    assert listed(on_host(placement).phrases(10)) == phrase


def test_without_the_number_of_layers() -> None:
    moved = Override.of(WHOLE, [1, 4], "host")
    assert str(on_host(placed(moved, n_host=1))) == "1 layer and the experts of 2 more"
    assert str(on_host(placed(moved))) == "the experts of 2 layers"
    assert on_host(placed(moved, n_host=2)).n_with_weights == 3


def test_experts_by_device() -> None:
    overrides = (
        Override.of(WHOLE, [1, 2, 8], "host"), Override.of(WHOLE, [9], "C"), Override.of(DOWN, [7], "host")
    )  # fmt: skip
    (places,) = placed_parts(model(expert_layers=range(1, 10)), placed(*overrides)).values()
    assert places == {
        "host": PlacedPart((1, 2, 8), (7,)),
        "A": PlacedPart((3, 4), ()),
        "B": PlacedPart((5, 6), (7,)),
        "C": PlacedPart((9,), ()),
    }


def test_feed_forward_weights_and_patterns_by_device() -> None:
    overrides = (
        Override.of(LayerPart.FFN_DOWN, [0, 1], "B"), Override(pattern="x", device="host", layers=(2, 7))
    )  # fmt: skip
    places = placed_parts(model(ffn_layers=range(10)), placed(*overrides))
    assert list(places) == [FFN, OTHER]
    assert EXPERTS not in places
    assert places[FFN]["A"] == PlacedPart((2, 3, 4), (0, 1))
    assert places[FFN]["B"] == PlacedPart((5, 6, 7, 8, 9), (0, 1))
    assert places[OTHER] == {"host": PlacedPart((), (2, 7))}


def test_a_part_that_stays_at_home() -> None:
    placement = placed(Override.of(WHOLE, range(5), "A"))
    assert not on_host(placement).n_with_weights
    assert placed_parts(model(expert_layers=range(10)), placement)[EXPERTS]["A"].whole == (0, 1, 2, 3, 4)
