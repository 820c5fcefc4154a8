import json
from pathlib import Path

import pytest

from tests import zoo
from tests.cli.running import run_here
from tools.random_model import write_llama

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("compare")
    return zoo.write(zoo.llama(), folder / "8b.gguf"), write_llama(folder / "tiny.gguf")


def test_rigs_side_by_side(models: tuple[Path, Path]) -> None:
    eight, _ = models
    rigs = ["RTX 4090", "2x RTX 3060", "RTX 3090 + 4080 laptop"]
    args = [part for rig in rigs for part in ("--compare", rig)]
    rows = json.loads(run_here("plan", eight, "--gpu", "RTX 3050", "--n-ctx", "8k", *args, "--json").stdout)[
        "plans"
    ]
    assert [row["rig"] for row in rows] == ["RTX 3050", *rigs]
    own, *others = rows
    assert all(row["fits"] and row["n_ctx"] == 8192 for row in rows)
    assert own["on_cpu"]  # 8 GiB are too few; a processor has a speed as well, if only an assumed one
    speeds = [row["speed"]["tokens_per_s"] for row in others]
    assert own["speed"]["tokens_per_s"] < min(speeds)
    assert speeds[0] > speeds[2] > speeds[1]
    assert {row["speed"]["basis"] for row in others} == {"catalog"}
    assert others[0]["headroom_bytes"] > 10 * 2**30
    assert others[2]["device_order"] == ["GPU0"]


@pytest.mark.parametrize("columns", [80, 140])
def test_models_side_by_side(models: tuple[Path, Path], columns: int) -> None:
    eight, tiny = models
    rigs = ("--gpu", "RTX 4090", "--compare", "3090")
    done = run_here("plan", eight, "--compare", tiny, *rigs, columns=columns)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert done.stdout.count("RTX 4090") == done.stdout.count("3090") == 2
    assert sum(line.rstrip().endswith("catalog") for line in lines) == 4


def test_a_model_that_does_not_fit_is_a_row_and_no_failure(models: tuple[Path, Path]) -> None:
    eight, _ = models
    args = [
        "-ot",
        "none",
        "--n-gpu-layers",
        "-1",
        "--compare",
        "RTX 3050",
        "--compare",
        "RTX 4090",
        "--gpu",
        "RTX 3060",
    ]
    done = run_here("plan", eight, *args, columns=120)
    assert done.returncode == 0, done.stderr
    assert "RTX 3050: llama of 32 layers Q8_0 does not fit" in done.stdout
    rows = json.loads(run_here("plan", eight, *args, "--json").stdout)["plans"]
    assert [row["fits"] for row in rows] == [True, False, True]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--compare", "RTX 4090"], "takes a model"),
        (["demo", "--compare", "RTX 4090", "--explain"], "--explain changes the report of one plan"),
        (["demo", "--compare", "RTX 4090", "--ways", "1"], "--ways changes the report of one plan"),
        (["--check", "x.json", "--compare", "RTX 4090"], "nothing is planned"),
    ],
)
def test_contradictory_options(args: list[str], message: str) -> None:
    done = run_here("plan", *args)
    assert done.returncode == 64
    assert message in done.stderr


@pytest.mark.parametrize(
    ("rig", "message"),
    [("RTX 4090 + RTX 9999", "'RTX 9999' names no single card"), ("RTX 4090 +", "lacks a card")],
)
def test_an_invalid_rig_is_refused(rig: str, message: str) -> None:
    done = run_here("plan", "demo", "--compare", rig)
    assert done.returncode == 20
    assert message in done.stderr


def test_rigs_are_written_as_for_gpu(models: tuple[Path, Path]) -> None:
    _, tiny = models
    rig = "4090 48GB + 2x 24GB@1008GB/s"
    one, other = json.loads(run_here("plan", tiny, "--gpu", rig, "--compare", rig, "--json").stdout)["plans"]
    assert one == other


def test_whole_rigs_side_by_side(models: tuple[Path, Path]) -> None:
    """A rig without a host has that of --ram and --cpu."""
    eight, _ = models
    rigs = ["RTX 3050 on 64GB DDR4-2133 1ch", "RTX 3050", "DGX Spark"]
    args = [part for rig in rigs for part in ("--compare", rig)]
    host = ["--gpu", "RTX 3050", "--ram", "64GiB DDR5-6000 8ch", "--cpu", "32 cores"]
    done = run_here("plan", eight, "-c", "8k", *host, *args, "--json")
    own, slow, alike, spark = json.loads(done.stdout)["plans"]
    assert own.pop("rig") == "RTX 3050 on 32 cores, 64GiB DDR5-6000 8ch"
    assert alike.pop("rig") == "RTX 3050"
    assert own == alike
    assert own["on_cpu"]
    assert slow["on_cpu"]
    assert not spark["on_cpu"]
    assert slow["speed"]["tokens_per_s"] < own["speed"]["tokens_per_s"] < spark["speed"]["tokens_per_s"]


def test_a_rig_whose_host_is_too_small_is_a_row(models: tuple[Path, Path]) -> None:
    eight, _ = models
    rigs = ["--compare", "RTX 3050 on 5GiB", "--compare", "on 64GiB DDR5-6000"]
    done = run_here("plan", eight, "-c", "8k", *rigs, "--gpu", "RTX 3090", "--json")
    _, refused, on_cpu = json.loads(done.stdout)["plans"]
    assert "the computer's memory is" in refused["refusal"]
    assert "other programs" not in refused["refusal"]
    assert (on_cpu["fits"], on_cpu["cpu_layers"], on_cpu["speed"]["basis"]) == (True, 32, "assumed")
