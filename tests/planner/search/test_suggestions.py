"""The changes that a refusal suggests: each of them fits if its flags follow the refused ones."""

import dataclasses
from pathlib import Path

import pytest

from tests import zoo
from tests.cli.typed import typed
from tests.planner.cases import DESKTOP, LAPTOP, machine, profile_of
from vram_llm.errors import DoesNotFit, Suggestion
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.types import Plan
from vram_llm.units import GIB

pytestmark = pytest.mark.process  # computes for many seconds

RIG = machine([LAPTOP, DESKTOP, DESKTOP], host_bytes=8 * GIB)


@pytest.mark.parametrize(
    ("model", "options", "flags"),
    [
        (
            "nemotron_49b",
            "--n-ctx 128k",
            [{"--n-ctx"}, {"--kv-type", "--n-ctx"}, {"--n-ctx"}],
        ),
        ("llama_8b", "-c 1024k", [{"--n-ctx"}]),
        (
            "nemotron_49b",
            "--n-ctx 4k --tensor-split 60,1,1 --override-tensor none",
            [{"--n-gpu-layers", "--tensor-split"}],
        ),
        ("nemotron_49b", "--n-ctx 128k --kv-type q8_0", [{"--n-ctx"}]),
    ],
)
def test_each_suggested_change_fits(model: str, options: str, flags: list[set[str]], tmp_path: Path) -> None:
    profile = profile_of(zoo.PUBLISHED[model](), tmp_path)
    with pytest.raises(DoesNotFit) as caught:
        make_plan(profile, RIG, typed(*options.split()))
    suggestions = caught.value.suggestions
    assert [set(suggestion.flags[::2]) for suggestion in suggestions][: len(flags)] == flags, suggestions
    uses_cpu = [suggestion.cpu_layers > 0 for suggestion in suggestions]
    assert uses_cpu == sorted(uses_cpu)
    for suggestion in suggestions:
        plan: Plan = make_plan(profile, RIG, typed(*options.split(), *suggestion.flags), compares=False)
        assert (plan.placement.cpu_layers, plan.context.n_ctx) == (suggestion.cpu_layers, suggestion.n_ctx)


def test_a_change_as_text() -> None:
    change = Suggestion(
        flags=("--n-ctx", "47616"), n_ctx=47616, n_layers=80, cpu_layers=0, tokens_per_s=15.84
    )
    assert str(change) == "--n-ctx 47616 (all on the cards, 15.8 tok/s expected)"
    uses_cpu = dataclasses.replace(change, cpu_layers=22, tokens_per_s=None)
    assert str(uses_cpu) == "--n-ctx 47616 (22 of 80 layers on the CPU)"


def test_a_remark_keeps_the_fields_of_the_error() -> None:
    change = Suggestion(flags=("--n-ctx", "256"), n_ctx=256, n_layers=1, cpu_layers=0)
    error = DoesNotFit("too large", short_bytes=7, suggestions=(change,), host_is_short=True)
    error = error.with_remark("close it")
    assert str(error) == "too large; close it"
    assert (error.short_bytes, error.suggestions, error.host_is_short) == (7, (change,), True)
