import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.running import run
from tools.random_model import write_llama
from vram_llm.planner.export.formats import to_json
from vram_llm.planner.tensor_split import SplitChoice
from vram_llm.planner.types import Workload
from vram_llm.units import KIB
from vram_llm.workflows import detection, planning, verification

pytestmark = pytest.mark.process

SMALL = ["--n-ctx", "512", "--parallel", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("uneven") / "uneven.gguf", n_ff=[512, 512, *[128] * 9])


def test_on_the_host(model: Path) -> None:
    done = run("verify", model, "--n-gpu-layers", "0", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "every device is within its budget" in done.stdout
    rows = re.findall(r"^(?:host)?\s+(weights|context|compute|total) .*$", done.stdout, re.MULTILINE)
    assert rows == ["weights", "context", "compute", "total"]


@pytest.mark.parametrize("columns", [50, 80])
def test_on_three_workers(model: Path, workers: tuple[str, ...], columns: int) -> None:
    rpc = [part for endpoint in workers for part in ("--rpc", f"{endpoint}@2GiB")]
    rpc += ["--objective", "balance"]
    done = run("verify", model, *rpc, *SMALL, columns=columns)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= columns
    for index in range(3):
        (row,) = re.findall(rf"^RPC{index}\s+weights(.*)$", done.stdout, re.MULTILINE)
        assert row.split()[-1] == "="
    assert "as planned on every device, to the byte: weights, context" in " ".join(done.stdout.split())
    assert done.stdout.count("not measured: no NVML over RPC") == (3 if columns == 80 else 0)


def test_json_on_workers(model: Path, workers: tuple[str, ...]) -> None:
    rpc = [part for endpoint in workers[:2] for part in ("--rpc", f"{endpoint}@2GiB")]
    done = run("verify", "--model", model, *rpc, *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["within_budget"] is True
    assert [device["id"] for device in found["devices"]][-1] == "host"
    for device in found["devices"][:-1]:
        kinds = {row["kind"]: row for row in device["kinds"]}
        assert list(kinds) == ["weights", "context", "compute", "overhead"]
        for kind in ("weights", "context"):
            assert kinds[kind]["held_bytes"] == kinds[kind]["planned_bytes"] > 0
        assert 0 < kinds["compute"]["held_bytes"] <= kinds["compute"]["planned_bytes"]
        assert kinds["overhead"]["held_bytes"] is None
        assert device["over_bytes"] == device["held_bytes"] - device["budget_bytes"] < 0


def test_logits_of_a_tensor_split(workers: tuple[str, ...], tmp_path: Path) -> None:
    """They differ from the layer split's by rounding; by more if that has another type of KV cache."""
    model = write_llama(tmp_path / "wide.gguf", n_embd=256, n_ff=[512, 512], n_head=8, n_head_kv=8)
    machine = detection.detect(rpc=[f"{endpoint}@2GiB" for endpoint in workers[:2]])
    wish = Workload(n_ctx=512, parallel=2, split_mode=SplitChoice.TENSOR)
    plan = planning.plan(str(model), machine, wish, compares=False)
    logits = verification.verify(plan).logits
    assert logits is not None
    assert logits.difference is not None
    assert logits.difference < logits.bound / 5
    assert logits.n_positions > 200
    other = plan.alternatives[0]
    other = replace(other, context=replace(other.context, kv_type_k="q4_0", kv_type_v="q4_0"))
    saved = tmp_path / "plan.json"
    saved.write_bytes(to_json(replace(plan, alternatives=(other,))))
    done = run("verify", "--plan", saved)
    assert done.returncode == 1, done.stderr
    assert "rounding explains 5%: plan with --split-mode layer" in " ".join(done.stdout.split())


@pytest.mark.parametrize("as_json", [False, True])
def test_a_device_over_its_budget_is_exit_code_1(
    model: Path, workers: tuple[str, ...], tmp_path: Path, as_json: bool
) -> None:
    rpc = [part for endpoint in workers[:2] for part in ("--rpc", f"{endpoint}@2GiB")]
    rpc += ["--objective", "balance"]
    plan = json.loads(run("plan", model, *rpc, *SMALL, "--json").stdout)
    over = plan["estimate"]["devices"][1]
    over["budget_bytes"] = over["weights_bytes"] + over["context_bytes"] - 10 * KIB
    saved = tmp_path / "plan.json"
    saved.write_text(json.dumps(plan))
    done = run("verify", "--plan", saved, *(["--json"] if as_json else []))
    assert done.returncode == 1, done.stderr
    if as_json:
        assert json.loads(done.stdout)["within_budget"] is False
    else:
        message = " ".join(done.stdout.split())
        assert f"({over['id']}) holds" in message
        assert "more than its budget of" in message


def test_without_a_model_it_takes_the_built_in_one() -> None:
    done = run("verify", "--n-gpu-layers", "0", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "the built-in one, demo" in done.stderr
    assert "within its budget" in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["demo", "--plan", "plan.json"], 64, "not both"),
        (["--plan", "nowhere.json"], 23, "nowhere.json"),
        (["nowhere.gguf"], 10, "nowhere.gguf"),
        (["demo", "--gpu", "24GiB"], 23, "not in this machine"),
    ],
)
def test_wrong_options(args: list[str], code: int, message: str) -> None:
    done = run("verify", *args)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
