"""The order of overriding options on a command line."""

import click
import pytest

from tests.cli.typed import typed
from vram_llm.planner.override_text import override_flags
from vram_llm.planner.types import ControlVector


@pytest.mark.parametrize(
    ("flags", "read"),
    [
        ("-ot a=CPU -ncmoe 3 -ot b=GPU0", "--override-tensor a=CPU --n-cpu-moe 3 --override-tensor b=GPU0"),
        ("-cmoe -ncffn 2", "--cpu-moe --n-cpu-ffn 2"),
        ("-cmoe -ot none -cmoe", "--cpu-moe"),
        ("-ncmoe 3 -ot auto --n-cpu-ffn 2", "--n-cpu-ffn 2"),
        ("-ot a=CPU -ot none", ""),
        ("-ncmoe 0", ""),
    ],
)
def test_overrides_are_read_in_the_order_typed(flags: str, read: str) -> None:
    overrides = typed(*flags.split()).overrides
    assert overrides is not None
    assert " ".join(override_flags(overrides)) == read


def test_without_an_override_the_planner_chooses() -> None:
    assert typed().overrides is None
    assert typed("-ot", "a=CPU", "-ot", "auto").overrides is None


def test_control_vectors_with_and_without_a_scale() -> None:
    flags = ("--control-vector", "a.gguf,b.gguf", "--control-vector-scaled", "c.gguf:0.5,d.gguf:-1")
    workload = typed(*flags, "--control-vector-layer-range", "2-9")
    assert workload.control_vectors == (
        ControlVector("a.gguf"), ControlVector("b.gguf"), ControlVector("c.gguf", 0.5),
        ControlVector("d.gguf", -1.0),
    )  # fmt: skip
    assert workload.control_vector_layers == (2, 9)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--control-vector-scaled", "a.gguf"), "has no scale"),
        (("--control-vector-scaled", "a.gguf:nan"), "has no scale"),
        (("--control-vector-layer-range", "2-9"), "is for control vectors"),
        (("--control-vector", "a.gguf", "--control-vector-layer-range", "9-2"), "is no range of layers"),
    ],
)
def test_control_vectors_that_are_refused(flags: tuple[str, ...], why: str) -> None:
    with pytest.raises(click.UsageError, match=why):
        typed(*flags)
