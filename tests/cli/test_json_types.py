"""The output of each --json matches its schema in the package."""

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

from tests import zoo
from tests.cli.running import run, run_here
from vram_llm.cli.json_types import DOCUMENTS
from vram_llm.llama.measure.measure_plan_wire import PlanMeasurement

pytestmark = pytest.mark.process

SMALL = ["--n-gpu-layers", "0", "--n-ctx", "512", "--parallel", "2"]
COMMANDS = {
    "analyze": ["analyze", "demo"],
    "bench-model": ["bench", "model", "demo", *SMALL, "--n-prompt", "32", "--n-gen", "4", "--repeats", "1"],
    "calibrate": ["calibrate", "--show"],
    "check": ["plan", "--check", "plan.json"],
    "compare": ["plan", "demo", "--gpu", "RTX 3090", "--compare", "24GiB"],
    "doctor": ["doctor"],
    "config": ["config", "demo", "--n-ctx", "1k", "--alias", "a", "--port", "0", "--insecure"],
    "fleet-plan": ["plan", "--config", "fleet.yaml", "--gpu", "RTX 3060"],
    "floor": ["plan", "demo", "--gpu", "RTX 3060", "--floor"],
    "machine": ["plan", "--gpu", "RTX 4080 Laptop"],
    "models": ["models"],
    "plan": ["plan", "demo", "--gpu", "2x RTX 3090"],
    "quantizations": ["plan", "models", "--gpu", "RTX 3090"],
    "tune": ["tune", "demo", *SMALL, "--minutes", "0.1"],
    "verify": ["verify", "demo", *SMALL],
    "watch": ["watch", "--once"],
}
IN_PROCESSES = ("bench-model", "verify")  # they load a model


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_command_keeps_to_its_schema(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "tune":  # tests/test_tuning.py measures
        times = PlanMeasurement(0.01, 0.0, 16, (0.01,), (0.01, 0.01))
        monkeypatch.setattr("vram_llm.llama.measure.measure_plan.measure_plan", lambda _: times)
    if name == "check":
        (tmp_path / "plan.json").write_text(run_here("plan", "demo", *SMALL, "--json").stdout)
    if name == "fleet-plan":
        entries = "".join(f"  - {{name: {model}, source: demo}}\n" for model in ("one", "two"))
        apart = "groups:\n  - {models: [one, two], apart: true}\n"
        (tmp_path / "fleet.yaml").write_text(f"n-ctx: 512\nmodels:\n{entries}{apart}")
    if name == "quantizations":
        (tmp_path / "models").mkdir()
        for quantization in ("Q4_0", "Q8_0"):
            zoo.write(zoo.llama(2), tmp_path / "models" / f"m-{quantization}.gguf", quantization)
    by = run if name in IN_PROCESSES else run_here
    done = by(*COMMANDS[name], "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    schema = json.loads(files("vram_llm").joinpath(f"schemas/{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(found, schema)
    assert next(iter(found)) == "version"
    assert set(found) == set(schema["properties"])
