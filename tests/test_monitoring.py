"""The files for Prometheus and Grafana in deploy/: they load, and ask only for metrics that exist."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine.test_speed_check import EXPECTED
from tests.machine.test_device_readings import three_cards
from tests.planner.saved import local, saved_plan
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.live import app_of, in_process
from vram_llm.planner.estimates import MemoryUse

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
_NAME = re.compile(r"\b(?:vllm|llamacpp|vram_llm):[a-z0-9_]+")


def board() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana" / "vram-llm.json").read_text())
    return loaded


async def test_every_metric_of_the_dashboard_is_exposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", three_cards())
    engine = FakeEngine()
    plan = saved_plan([local(0, uuid="GPU-0"), local(1, uuid="GPU-2")], [3, 2])
    engine.plan = dataclasses.replace(plan, speed=EXPECTED)
    engine.info = dataclasses.replace(INFO, memory={"GPU0": MemoryUse(1, 2, 3)})
    async with in_process(app_of(engine)) as client:
        text = (await client.get("/metrics")).text
    exposed = {line.partition(" ")[0].partition("{")[0] for line in text.splitlines() if line[0] != "#"}
    asked = set(_NAME.findall((DEPLOY / "grafana" / "vram-llm.json").read_text()))
    never_without_a_process = {
        "vram_llm:device_own_bytes",
        "vram_llm:device_other_bytes",
        "vram_llm:host_own_bytes",
    }
    assert len(asked) > 40
    assert asked - exposed == never_without_a_process


def test_panels_have_places_of_their_own() -> None:
    places: set[tuple[int, int]] = set()
    for panel in board()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & places, panel["title"]
        places |= cells
    numbers = [panel["id"] for panel in board()["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_files_that_others_mount_exist() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.monitoring.yaml").read_text())
    sources = [
        volume.partition(":")[0]
        for service in compose["services"].values()
        for volume in service["volumes"]
        if volume.startswith("./")
    ]
    given_by_the_user = {"./metrics.key"}
    assert {source for source in sources if not (DEPLOY / source).exists()} == given_by_the_user
    named = {v.partition(":")[0] for s in compose["services"].values() for v in s["volumes"]} - set(sources)
    assert named == set(compose["volumes"])
    for path in (DEPLOY / "grafana" / "provisioning").rglob("*.yaml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1


@pytest.mark.process
@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, which comes with Prometheus, is not here"
)
def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "prometheus.yml", tmp_path)
    (tmp_path / "metrics.key").write_text("sk-x")
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
