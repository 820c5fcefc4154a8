"""`vram-llm plan` by the dry run, then again with each run of flags that it printed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import zoo
from tests.cli.running import run_here, without_alternatives
from tests.cli.typed import printed_flags

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("plans_made_once")]


def placement(*args: str | Path) -> dict[str, Any]:
    with without_alternatives():
        done = run_here("plan", *args, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["placement"]
    return found


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("nemotron_49b", ["--gpu", "RTX 4080 Laptop", "--gpu", "2x RTX 3090 Ti", "--n-ctx", "8k"]),
        ("gemma3_27b", ["--gpu", "RTX 3090 + RTX 3060", "--parallel", "2"]),
        ("llama_8b", ["--gpu", "10GiB@400GB/s", "--n-ctx", "32k"]),
    ],
)
def test_flags_that_are_printed_can_be_typed(model: str, flags: list[str], tmp_path: Path) -> None:
    path = zoo.write(zoo.PUBLISHED[model](), tmp_path / "model.gguf")
    shown = run_here("plan", path, *flags, "--verbose")
    assert shown.returncode == 0, shown.stderr
    printed = printed_flags(shown.stdout)
    (dictated,) = (one for one in printed if one[0] == "--n-gpu-layers")
    ways = [one for one in printed if one != dictated]
    planned = placement(path, *flags)
    assert placement(path, *flags, *dictated) == planned
    for way in ways:
        again = placement(path, *flags, *way)
        assert again["cpu_layers"] <= planned["cpu_layers"]


def test_ways_of_a_refusal_can_be_typed(tmp_path: Path) -> None:
    path = zoo.write(zoo.nemotron_49b(), tmp_path / "model.gguf")
    flags = ["--gpu", "RTX 4080 Laptop + 2x RTX 3090 Ti", "--ram", "8GiB", "--n-ctx", "128k"]
    refused = run_here("plan", path, *flags)
    assert refused.returncode == 2
    first, *_ = printed_flags(refused.stderr)
    planned = placement(path, *flags, *first)
    assert (planned["cpu_layers"], planned["overrides"]) == (0, [])


def test_ways_as_many_as_asked_for(tmp_path: Path) -> None:
    path = zoo.write(zoo.llama(), tmp_path / "model.gguf")
    args = ["--gpu", "RTX 3090", "--n-ctx", "8k"]
    n_rows = [
        len(printed_flags(run_here("plan", path, *args, "--ways", n).stdout)) for n in ("0", "1", "all")
    ]
    assert n_rows[:2] == [0, 1]
    assert n_rows[2] > 3
    assert "neither a number nor all" in run_here("plan", path, *args, "--ways", "few").stderr
