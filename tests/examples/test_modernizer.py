"""The modernizer: how it cuts and counts by hand, and a whole run on the built-in model."""

import json
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from examples.modernizer.agents import REVIEWERS, VALIDATOR, prompt
from examples.modernizer.code_base import SourceFile
from examples.modernizer.costs import Price, electricity, table
from examples.modernizer.parts import cut, together
from tests.cli.running import ROOT, run_program
from tests.server.live import Serving

AGENTS = [*(agent.name for agent in REVIEWERS), VALIDATOR.name]


def words(text: str) -> int:
    return len(text.split())


def file(path: str, lines: int) -> SourceFile:
    text = "\n".join(f"line {number} of {path}" for number in range(1, lines + 1))
    return SourceFile(path, text, words(text))


def test_small_files_of_a_module_are_read_together() -> None:
    parts = cut([file("a/x.py", 3), file("b/z.py", 3), file("a/y.py", 3)], 60, 2, words)
    assert [(part.name, part.within) for part in parts] == [("a/x.py, a/y.py", "a"), ("b/z.py", "b")]


def test_a_large_file_is_cut_into_pieces_that_overlap_and_miss_nothing() -> None:
    parts = cut([file("big.py", 100)], 100, 3, words)
    assert len(parts) > 4
    assert all(words(part.text) <= 100 for part in parts)
    lines = [[line for line in part.text.splitlines() if line.startswith("line")] for part in parts]
    for before, after in pairwise(lines):
        assert before[-3:] == after[:3]
    assert {line for part in lines for line in part} == set(file("big.py", 100).text.splitlines())


def test_a_line_larger_than_the_budget_is_named() -> None:
    with pytest.raises(ValueError, match=r"wide.py, line 2 alone is more than 20 tokens"):
        cut([SourceFile("wide.py", f"short\n{'word ' * 50}", 51)], 20, 1, words)


def test_no_part_is_over_the_budget() -> None:
    rng = random.Random(5)
    pieces = [(str(at), "w " * rng.randrange(1, 40)) for at in range(50)]
    parts = together(pieces, "all", 50, words)
    assert all(words(part.text) <= 50 for part in parts)
    assert ", ".join(part.name for part in parts) == ", ".join(name for name, _ in pieces)


def test_agents_share_all_that_comes_before_their_task() -> None:
    texts = [prompt("code", agent)[1]["content"] for agent in REVIEWERS]
    assert all(text.startswith("Material:\ncode\n\nTask: ") for text in texts)


def test_costs_by_hand() -> None:
    usage = {"prompt_tokens": 3_000_000, "cached_tokens": 1_000_000, "completion_tokens": 500_000}
    assert Price("p", 2.0, 10.0, 0.5).of(usage) == 2 * 2.0 + 0.5 + 5.0
    assert Price("p", 2.0, 10.0).of(usage) == 3 * 2.0 + 5.0
    assert electricity(7200, 500, 0.3) == pytest.approx(0.3)
    assert table({"dear": 2.0, "a": 0.5}).splitlines() == ["a           0.5000", "dear        2.0000"]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Three modules, one file of them larger than what one request may take."""
    folder = tmp_path / "legacy"
    for name, lines in (
        ("billing/invoice.py", 8),
        ("billing/tax.py", 200),
        ("store/stock.cob", 6),
        ("main.c", 6),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(f"value_{n} = lookup({n}) + {n * 7}" for n in range(lines)))
    (folder / ".git").mkdir()
    (folder / ".git" / "hook.py").write_text("hidden = 1")
    return folder


def run(served: Serving, code: Path, report: Path) -> "subprocess.CompletedProcess[str]":
    return run_program(
        sys.executable, "-m", "examples.modernizer", code, "--base-url", f"{served.url}/v1",
        "--context", "3600", "--answer-tokens", "200", "--report", report, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.process
def test_a_whole_run_is_kept_and_goes_on_where_it_ended(
    demo_server: Serving, code: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    done = run(demo_server, code, report)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    assert sorted(file["path"] for file in found["files"]) == [
        "billing/invoice.py", "billing/tax.py", "main.c", "store/stock.cob",
    ]  # fmt: skip
    assert all(file["tokens"] > 50 for file in found["files"])
    assert sum(part["name"].startswith("billing/tax.py:") for part in found["parts"]) >= 2
    assert sorted(found["modules"]) == [".", "billing", "store"]
    reviewed = [*found["parts"], *found["modules"].values(), found["system"]]
    answers = [one[name] for one in reviewed for name in AGENTS]
    assert all("summary" in answer or "incomplete" in answer for answer in answers)
    assert any("summary" in answer for answer in answers)  # many run out of tokens: the model is tiny
    assert found["usage"]["cached_tokens"] > found["usage"]["prompt_tokens"] / 3
    assert "cloud model" in done.stdout

    kept = report.with_suffix(".answers.jsonl")
    lines = kept.read_text().splitlines()
    assert len(lines) == found["requests"]
    kept.write_text("\n".join(lines[: len(lines) // 2]) + '\n{"key": "cut off in the mid')
    again = run(demo_server, code, report)
    assert again.returncode == 0, again.stderr
    resumed = json.loads(report.read_text())
    assert 0 < resumed["requests"] < found["requests"]
    assert kept.read_text().splitlines()[: len(lines) // 2] == lines[: len(lines) // 2]


@pytest.mark.process
def test_a_context_too_short_is_refused_with_what_to_do(demo_server: Serving, code: Path) -> None:
    done = run_program(
        sys.executable, "-m", "examples.modernizer", code, "--base-url", f"{demo_server.url}/v1",
        "--context", "1024", cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert "serve with a longer --n-ctx, or lower --answer-tokens" in done.stderr
