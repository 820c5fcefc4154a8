"""The order of overriding options on a command line."""

import pytest

from tests.cli.typed import typed
from vram_llm.planner.override_text import override_flags


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
