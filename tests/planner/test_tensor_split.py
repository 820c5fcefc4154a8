"""Splits as a person writes them, and as plans print them."""

import pytest

from vram_llm.errors import BadSplit
from vram_llm.planner.llama_split import placement_flags, placement_from_counts
from vram_llm.planner.tensor_split import TensorSplit

IDS = ("GPU0", "GPU1", "RPC0")


@pytest.mark.parametrize(
    ("text", "order", "shares"),
    [
        ("0.35,0.45,0.20", IDS, (0.35, 0.45, 0.20)),
        ("0,38,43", IDS, (0, 38, 43)),
        ("GPU1=38,GPU0=43", ("GPU1", "GPU0"), (38, 43)),
        (" gpu1 = 38 , rpc0=1", ("GPU1", "RPC0"), (38, 1)),
    ],
)
def test_a_split_over_three_devices(text: str, order: tuple[str, ...], shares: tuple[float, ...]) -> None:
    assert TensorSplit.parse(text).over(IDS) == (order, shares)


@pytest.mark.parametrize("text", ["0.35,0.45,0.2", "0,38,43", "GPU1=38,RPC0=0.5"])
def test_it_is_printed_as_it_is_read(text: str) -> None:
    assert str(TensorSplit.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a list of shares"),
        ("a,b", "is not a list of shares"),
        ("GPU0=,GPU1=3", "is not a list of shares"),
        ("=3,GPU1=3", "a share without a device"),
        ("GPU0=3,4", "names some devices and not others"),
        ("0,0", "every share of --tensor-split is 0"),
        ("GPU0=0", "every share of --tensor-split is 0"),
        ("1,-1", "shares are 0 or more"),
        ("1,nan", "shares are 0 or more"),
        ("GPU0=1,gpu0=2", "names GPU0 twice"),
    ],
)
def test_what_is_no_split(text: str, message: str) -> None:
    with pytest.raises(BadSplit, match=message):
        TensorSplit.parse(text)


def test_a_split_of_other_devices() -> None:
    with pytest.raises(BadSplit, match="names GPU7, and the devices are GPU0, GPU1, RPC0"):
        TensorSplit.parse("GPU0=1,GPU7=1").over(IDS)
    with pytest.raises(BadSplit, match="there are 0 devices"):
        TensorSplit.parse("1").over(())
    with pytest.raises(BadSplit, match="give one for each"):
        TensorSplit((1.0,), ("GPU0", "GPU1"))


def test_the_options_that_dictate_a_placement() -> None:
    placement = placement_from_counts(["GPU1", "GPU0", "GPU2"], [3, 0, 4], 10)
    assert placement_flags(placement) == ("--n-gpu-layers", "8", "--tensor-split", "GPU1=3,GPU2=5")
    assert placement_flags(placement_from_counts([], [], 10)) == ("--n-gpu-layers", "0")
