import json
from pathlib import Path

import pytest

from tests import zoo
from tests.cli.running import run
from tools.random_model import write_llama

RIG = ["--gpu", "RTX 4080 Laptop", "--gpu", "2x RTX 3090 Ti"]


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("49b")
    return zoo.write(zoo.nemotron_49b(), folder / "49b.gguf", shard_bytes=40 * 10**9)


def test_the_49b_on_a_what_if_rig(nemotron: Path) -> None:
    done = run("plan", nemotron, *RIG, "--n-ctx", "2048", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["fits"] is True
    assert [device["total_bytes"] // 2**30 for device in plan["devices"]] == [12, 24, 24]
    assert plan["context"]["n_ctx"] == 2048
    for use in plan["estimate"]["devices"]:
        device = next(device for device in plan["devices"] if device["id"] == use["id"])
        assert use["total_bytes"] <= device["free_bytes"] - device["reserve_bytes"]


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_the_table_fits_the_terminal(nemotron: Path, columns: int) -> None:
    done = run("plan", nemotron, *RIG, columns=columns)
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= columns
    assert "GPU2" in done.stdout
    assert "by free memory" in done.stdout.replace("\n", " ")


def test_the_machine_alone() -> None:
    assert "GPU0" in run("plan", *RIG).stdout
    found = json.loads(run("plan", *RIG, "--json").stdout)
    assert [device["what_if"] for device in found["devices"]] == [True] * 3
    assert found["host"]["cores"] >= 1
    here = run("plan")
    assert here.returncode == 0
    assert "host: " in here.stdout


def test_a_dictated_placement(nemotron: Path) -> None:
    args = ["--tensor-split", "0.2,0.4,0.4", "--n-gpu-layers", "60", "--n-ctx", "1k", "--reserve-mib", "512"]
    plan = json.loads(run("plan", nemotron, *RIG, *args, "--json").stdout)
    assert plan["placement"]["n_gpu_layers"] == 60
    assert plan["placement"]["cpu_layers"] == 21
    assert plan["placement"]["tensor_split"] == [12, 24, 24]
    assert plan["devices"][0]["reserve_bytes"] == 512 * 2**20


def test_the_python_api_gives_what_the_command_gives(tmp_path: Path) -> None:
    from vram_llm import api
    from vram_llm.plan.types import Workload

    model = write_llama(tmp_path / "tiny.gguf")
    told = json.loads(run("plan", model, "--gpu", "24GiB", "--n-ctx", "512", "--json").stdout)
    plan = api.plan(str(model), api.detect(["24GiB"]), Workload(n_ctx=512))
    assert told["placement"]["tensor_split"] == list(plan.placement.tensor_split) == [5]
