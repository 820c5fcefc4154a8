import json
import subprocess
from pathlib import Path

import jsonschema
import pytest

from tests.cli import running
from tests.cli.running import environment
from tests.workers import free_ports
from vram_llm.cli.json_types import schema

pytestmark = pytest.mark.process


def run(folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    """Run `vram-llm` with a data folder of the test's own."""
    return running.run(*args, env=_environment(folder))


def run_here(folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    """`run` within this process, for commands that measure nothing."""
    return running.run_here(*args, env=_environment(folder))


def _environment(folder: Path) -> dict[str, str]:
    return environment(100) | {"VRAM_LLM_DATA_DIR": str(folder)}


def test_a_journey(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Measured, shown, planned with, forgotten."""
    endpoint = workers[0]
    done = run(tmp_path, "calibrate", "--rpc", f"{endpoint}@2GiB", "--seconds", "1", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    jsonschema.validate(printed, schema("calibrate"))
    found = printed["devices"]
    assert endpoint in found
    assert len(found) >= 2
    assert found[endpoint]["link_bytes_per_s"] > 0

    shown = run_here(tmp_path, "calibrate", "--show")
    assert shown.returncode == 0, shown.stderr
    assert endpoint in shown.stdout
    assert found[endpoint]["measured_at"][:10] in shown.stdout
    assert json.loads(run_here(tmp_path, "calibrate", "--show", "--json").stdout)["devices"] == found

    planned = run(tmp_path, "plan", "demo", "--rpc", f"{endpoint}@2GiB", "--json")
    plan = json.loads(planned.stdout)
    speed = plan["devices"][-1]["speed"]["read_bytes_per_s"]
    assert speed == {"value": found[endpoint]["read_bytes_per_s"], "source": "measured"}
    assert plan["speed"]["basis"] == "measured"

    benched = run(
        tmp_path, "bench", "model", "demo", "--rpc", f"{endpoint}@2GiB", "--n-prompt", "32", "--n-gen", "8",
        "--parallel", "2", "--repeats", "2",
    )  # fmt: skip
    assert benched.returncode == 0, benched.stderr
    rows = {line[:7].strip(): line for line in benched.stdout.splitlines()}
    assert {"pp32", "tg8", "tg8 x2"} <= set(rows)
    assert "expected from measured figures" in benched.stdout

    dropped = run_here(tmp_path, "calibrate", "--forget", endpoint)
    assert dropped.returncode == 0
    assert f"forgotten: {endpoint}" in dropped.stderr
    assert endpoint not in run_here(tmp_path, "calibrate", "--show").stdout
    emptied = run_here(tmp_path, "calibrate", "--forget", "all", "--show")
    assert emptied.stdout.startswith("no measurements yet")


def test_a_worker_that_is_not_there(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    done = run(tmp_path, "calibrate", "--rpc", f"127.0.0.1:{port}")
    assert done.returncode == 21
    assert f"no worker answers at 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--forget", "RTX 9090"], 20, "there are no measurements of 'RTX 9090'; measured so far: none"),
        (["--show", "--rpc", "127.0.0.1:50052"], 64, "leave it out with --show"),
        (["--show", "--seconds", "30"], 64, "leave it out with --show"),
        (["--forget", "all", "--model", "demo"], 64, "--model names disks to measure; leave it out"),
        (["--model", "absent.gguf"], 10, "absent.gguf"),
        (["--seconds", "0"], 64, "--seconds"),
        (["--seconds", "inf"], 64, "--seconds"),
        (["--seconds", "nan"], 64, "--seconds: nan is no time"),
        (["--rpc", "nowhere"], 21, "is not an address"),
    ],
)
def test_wrong_options(tmp_path: Path, args: list[str], code: int, message: str) -> None:
    done = run_here(tmp_path, "calibrate", *args)
    assert done.returncode == code
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_disks_are_shown_and_forgotten(tmp_path: Path) -> None:
    record = {"read_bytes_per_s": 2.5e9, "file": "/models/a.gguf", "measured_at": "2026-11-29T10:00:00+00:00",
              "vram_llm": "0.2.0"}  # fmt: skip
    (tmp_path / "disks.json").write_text(json.dumps({"version": 1, "cards": {"/ (/dev/sda)": record}}))
    shown = run_here(tmp_path, "calibrate", "--show").stdout
    assert "disk / (/dev/sda): 2.5 GB/s" in shown
    assert "on /models/a.gguf" in " ".join(shown.split())
    printed = json.loads(run_here(tmp_path, "calibrate", "--show", "--json").stdout)
    jsonschema.validate(printed, schema("calibrate"))
    assert printed["disks"] == {"/ (/dev/sda)": record}
    dropped = run_here(tmp_path, "calibrate", "--forget", "/ (/dev/sda)", "--show")
    assert "forgotten: / (/dev/sda)" in dropped.stderr
    assert dropped.stdout.startswith("no measurements yet")


def test_sums_are_shown_and_forgotten(tmp_path: Path) -> None:
    devices = [{"key": key, "name": "RTX 3090", "driver": "580"} for key in ("GPU-a", "GPU-b")]
    record = {"devices": devices, "latency_s": 2.1e-5, "bytes_per_s": 1.24e10, "vram_llm": "0.2.0",
              "measured_at": "2026-12-01T10:00:00+00:00", "llama_cpp_python": "0.3.36"}  # fmt: skip
    (tmp_path / "sums.json").write_text(json.dumps({"version": 1, "cards": {"GPU-a + GPU-b": record}}))
    shown = " ".join(run_here(tmp_path, "calibrate", "--show").stdout.split())
    assert "sum of a tensor split over GPU-a + GPU-b: 21 us and 12.4 GB/s" in shown
    assert "measured 2026-12-01 by vram-llm 0.2.0, llama-cpp-python 0.3.36" in shown
    printed = json.loads(run_here(tmp_path, "calibrate", "--show", "--json").stdout)
    jsonschema.validate(printed, schema("calibrate"))
    assert printed["sums"]["GPU-a + GPU-b"]["latency_s"] == 2.1e-5
    dropped = run_here(tmp_path, "calibrate", "--forget", "GPU-a + GPU-b", "--show")
    assert "forgotten: GPU-a + GPU-b" in dropped.stderr
    assert dropped.stdout.startswith("no measurements yet")


def test_an_unreadable_store_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text("{")
    done = run_here(tmp_path, "calibrate", "--show")
    assert done.returncode == 0
    assert "damaged and not used" in done.stderr
    assert run_here(tmp_path, "calibrate", "--forget", "x").returncode == 1
    assert run_here(tmp_path, "calibrate", "--forget", "all").returncode == 0
