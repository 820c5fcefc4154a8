"""Overrides as they are typed and printed."""

import pytest

from vram_llm.errors import BadPlan
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.override_text import layer_ranges, override_flags, parse_overrides
from vram_llm.planner.overrides import Override

EXPERTS, FFN, DOWN = LayerPart.EXPERTS, LayerPart.FFN, LayerPart.FFN_DOWN


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("experts:0-2=CPU", [Override.of(EXPERTS, range(3), "host")]),
        ("experts:all=host", [Override.of_all(EXPERTS, "host")]),
        ("ffn:3,7-8=A,ffn_down:1=cpu", [Override.of(FFN, (3, 7, 8), "A"), Override.of(DOWN, [1], "host")]),
        (r"\.ffn_.*_exps\.=CPU", [Override(pattern=r"\.ffn_.*_exps\.", device="host")]),
        ("ffn=GPU0,7=GPU1", [Override(pattern="ffn", device="GPU0"), Override(pattern="7", device="GPU1")]),
    ],
)  # fmt: skip
def test_what_is_typed(text: str, overrides: list[Override]) -> None:
    assert parse_overrides(text) == tuple(overrides)


@pytest.mark.parametrize("text", ["experts:0-2", "=CPU", "exps=", "x{1,2}=CPU", "a=CPU,", "exps", ""])
def test_what_is_no_override(text: str) -> None:
    with pytest.raises(BadPlan, match="is no override; write it like"):
        parse_overrides(text)


@pytest.mark.parametrize("layers", ["3-1", "1,,2", "-", "5-", "99999"])
def test_what_is_no_list_of_layers(layers: str) -> None:
    with pytest.raises(BadPlan, match="is no list of layers"):
        parse_overrides(f"experts:{layers}=CPU")


def test_ranges_of_layers() -> None:
    assert layer_ranges([0]) == "0"
    assert layer_ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert not layer_ranges([])


@pytest.mark.parametrize(
    ("overrides", "flags"),
    [
        ([], ""),
        ([Override.of(EXPERTS, range(9), "host")], "--n-cpu-moe 9"),
        ([Override.of(FFN, range(9), "host")], "--n-cpu-ffn 9"),
        ([Override.of_all(EXPERTS, "host")], "--cpu-moe"),
        ([Override.of_all(FFN, "host")], "--override-tensor ffn:all=CPU"),
        ([Override.of(EXPERTS, (1, 2), "host")], "--override-tensor experts:1-2=CPU"),
        ([Override.of(DOWN, range(9), "host")], "--override-tensor ffn_down:0-8=CPU"),
        (
            [Override.of(EXPERTS, range(9), "GPU1"), Override(pattern="output", device="host")],
            "--override-tensor experts:0-8=GPU1,output=CPU",
        ),
        (
            [Override.of(EXPERTS, range(2), "host"), Override.of(EXPERTS, (4, 6), "GPU1")],
            "--n-cpu-moe 2 --override-tensor experts:4,6=GPU1",
        ),
    ],
)
def test_what_is_printed(overrides: list[Override], flags: str) -> None:
    assert " ".join(override_flags(overrides)) == flags
