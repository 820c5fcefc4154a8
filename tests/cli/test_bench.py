import csv
import getpass
import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.running import run
from tests.conftest import PlanOnCpu
from vram_llm.cli.llama_bench_table import llama_bench_lines
from vram_llm.planner.measured_speed import MeasuredSpeed

pytestmark = pytest.mark.process

SMALL = ["--n-gpu-layers", "0", "--n-ctx", "512", "--parallel", "2"]
FEW = ["--n-prompt", "32", "--n-gen", "4", "--repeats", "3"]


def test_a_model_on_the_host() -> None:
    done = run("bench", "model", "demo", *SMALL, *FEW, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["tests"]
    assert [each["test"] for each in found] == ["pp32", "tg4", "tg4 x2"]
    for each in found:
        assert len(each["rounds_tokens_per_s"]) == 3
        assert min(each["rounds_tokens_per_s"]) <= each["tokens_per_s"] <= max(each["rounds_tokens_per_s"])


def test_a_saved_plan(tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    saved.write_text(run("plan", "demo", *SMALL[:-2], "--parallel", "1", "--json").stdout)
    done = run("bench", "model", "--plan", saved, *FEW)
    assert done.returncode == 0, done.stderr
    assert "pp32" in done.stdout
    assert "tg4" in done.stdout
    assert " x1" not in done.stdout


def test_rows_to_share_name_no_one(tmp_path: Path) -> None:
    file = tmp_path / "speed.csv"
    for n_rows in (2, 4):
        done = run("bench", "model", "demo", *SMALL, *FEW, "--share", file)
        assert done.returncode == 0, done.stderr
        assert "attach it to an issue" in done.stderr
        assert "tg4" in done.stdout
        rows = list(csv.DictReader(file.read_text().splitlines()))
        assert len(rows) == n_rows
    assert [row["streams"] for row in rows] == ["1", "2", "1", "2"]
    one = rows[0]
    assert (one["placement"], one["pp_tokens"], one["gen_tokens"]) == ("CPU only", "32", "4")
    assert float(one["tg_tok_s"]) > 0
    assert float(one["tg_predicted"]) > 0
    text = file.read_text()
    for name in (platform.node(), getpass.getuser(), str(Path.home()), str(tmp_path)):
        assert name in ("", "root", "/", "localhost") or name not in text


def test_llama_benchs_markdown(plan_on_cpu: PlanOnCpu) -> None:
    results = [
        MeasuredSpeed(
            test=test,
            rounds_tokens_per_s=rounds,
            tokens_per_s=rounds[0],
            expected_tokens_per_s=None,
            basis=None,
        )
        for test, rounds in (("pp512", (3155.0, 3165.0)), ("tg128", (130.5,)))
    ]
    plan = plan_on_cpu()
    plan = replace(
        plan,
        model=replace(plan.model, name="llama 7B", quantization="Q4_0", total_bytes=3_825_065_984),
        context=replace(plan.context, n_threads=2),
    )
    assert list(llama_bench_lines(plan, 6_738_415_616, results)) == [
        "| model                          |       size |     params | backend    "
        "| threads |            test |                  t/s |",
        "| ------------------------------ | ---------: | ---------: | ---------- "
        "| ------: | --------------: | -------------------: |",
        "| llama 7B Q4_0                  |   3.56 GiB |     6.74 B | CPU        "
        "|       2 |           pp512 |       3160.00 ± 7.07 |",
        "| llama 7B Q4_0                  |   3.56 GiB |     6.74 B | CPU        "
        "|       2 |           tg128 |        130.50 ± 0.00 |",
    ]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 64, "give a model, or a saved plan"),
        (["demo", "--plan", "plan.json"], 64, "give a model, or a saved plan"),
        (["--plan", "nowhere.json"], 23, "nowhere.json"),
        (["demo", "--gpu", "24GiB"], 23, "not in this machine"),
        (["demo", *SMALL, "--n-gen", "300"], 23, "context holds 512 tokens and the tests need 604"),
        (["demo", "--share", "model.gguf"], 64, "model.gguf: rows are written as CSV"),
        (["nowhere.gguf"], 10, "nowhere.gguf"),
    ],
)
def test_wrong_options(args: list[str], code: int, message: str) -> None:
    done = run("bench", "model", *args)
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
