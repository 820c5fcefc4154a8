"""`--device`: the devices that a plan may use."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import zoo
from tests.cli.running import run_here

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("plans_made_once")]

RIG = ("--gpu", "RTX 3090 + RTX 4090", "--n-ctx", "2048")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.write(zoo.llama(), tmp_path_factory.mktemp("8b") / "8b.gguf")


def _plan(model: Path, *flags: str) -> dict[str, Any]:
    done = run_here("plan", model, *RIG, *flags, "--json")
    assert done.returncode == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


@pytest.mark.parametrize(
    ("written", "ids"),
    [("GPU0", ["GPU0"]), ("RTX 4090", ["GPU1"]), ("GPU1,0", ["GPU1", "GPU0"]), ("none", [])],
)
def test_a_plan_has_only_the_devices_asked_for(model: Path, written: str, ids: list[str]) -> None:
    plan = _plan(model, "-dev", written)
    assert [device["id"] for device in plan["devices"]] == ids
    assert set(plan["placement"]["device_order"]) <= set(ids)


def test_shares_by_number_follow_the_order_of_the_list(model: Path) -> None:
    plan = _plan(model, "--device", "GPU1,GPU0", "--tensor-split", "30,3")
    assert dict(
        zip(plan["placement"]["device_order"], plan["placement"]["layers_per_device"], strict=True)
    ) == {"GPU1": 30, "GPU0": 2}


def test_another_device_is_refused(model: Path) -> None:
    done = run_here("plan", model, *RIG, "--device", "CUDA7")
    assert done.returncode == 20
    assert "there is no device 'CUDA7'; there are GPU0 (NVIDIA GeForce RTX 3090), GPU1 (NV" in done.stderr
    done = run_here("plan", model, *RIG, "--device", "GPU0,,GPU1")
    assert done.returncode == 64
    assert "is no list of devices; write it like GPU0,GPU1, or none" in done.stderr
