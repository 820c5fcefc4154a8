"""`plan --config FILE`: several models on cards that are not here, as a person runs it."""

import shlex
from pathlib import Path

import pytest
import yaml

from tests.cli.running import run_here
from tools.random_model import write_llama
from vram_llm.planner.fleet.fleet_json import fleet_from_json

pytestmark = pytest.mark.process

RIG = ["--gpu", "6GiB@300GB/s + 6GiB@100GB/s", "--ram", "8GiB"]
FLEET = """\
n-ctx: 1024
reserve-mib: 0
models:
  - {name: chat, source: FOLDER/chat.gguf, temperature: 0.6, preload: true}
  - {name: coder, source: FOLDER/coder.gguf, devices: [1], aliases: [code]}
  - {name: small, source: FOLDER/small.gguf}
groups:
  - {models: [chat, coder], apart: true}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    for name in ("chat", "coder", "small"):
        write_llama(folder / f"{name}.gguf")
    (folder / "fleet.yaml").write_text(FLEET.replace("FOLDER", str(folder)))
    return folder


def test_the_report_and_the_flags_that_go_with_it(folder: Path) -> None:
    done = run_here("plan", "--config", folder / "fleet.yaml", *RIG, columns=80)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("3 models, of which up to 2 fit together")
    assert [line.split()[0] for line in lines if "▇" in line] == ["chat", "coder", "small"]


def test_json_and_the_files_of_other_programs_say_the_same(folder: Path) -> None:
    config = ("plan", "--config", str(folder / "fleet.yaml"), *RIG, "--parallel", "2")
    plan = fleet_from_json(run_here(*config, "--json").stdout.encode(), "the fleet")
    assert {frozenset(one) for one in plan.sets} == {
        frozenset({"chat", "small"}),
        frozenset({"coder", "small"}),
    }
    assert {replica.plan.context.parallel for model in plan.models for replica in model.replicas} == {2}
    assert plan["coder"].replicas[0].devices == ("GPU1",)
    swap = yaml.safe_load(run_here(*config, "--emit", "llama-swap").stdout)
    assert [group["members"] for group in swap["groups"].values()] == [["small"], ["chat", "coder"]]
    words = shlex.split(swap["models"]["chat"]["cmd"])
    assert words[words.index("--temp") + 1] == "0.6"
    assert words[words.index("--model") + 1] == str(folder / "chat.gguf")
    assert swap["models"]["coder"]["aliases"] == ["code"]
    presets = run_here(*config, "--emit", "llama-server-presets").stdout
    assert "--models-max 1 " in presets
    assert f"model = {folder / 'small.gguf'}" in presets


def test_an_entry_for_all_models_on_this_disk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "models--org--kept-GGUF" / "snapshots" / "abc"
    there.mkdir(parents=True)
    (there.parents[1] / "refs").mkdir()
    (there.parents[1] / "refs" / "main").write_text("abc")
    write_llama(there / "kept-F16.gguf")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    config = tmp_path / "all.yaml"
    config.write_text(f"n-ctx: 1024\nmodels:\n  - source: {folder}/chat.gguf\n  - source: installed\n")
    done = run_here("plan", "--config", config, *RIG, "--json")
    assert done.returncode == 0, done.stderr
    plan = fleet_from_json(done.stdout.encode(), "the fleet")
    assert [model.spec.name for model in plan.models] == ["chat", "kept-F16"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["x.gguf", "--config", "FILE"], 64, "--config names the models: leave MODEL out"),
        (
            ["x.gguf", "--emit", "llama-swap"],
            64,
            "--emit llama-swap is for several models: --config FILE lists",
        ),
        (
            ["--config", "FILE", "--emit", "env"],
            64,
            "--emit env is for one model; --config takes llama-swap",
        ),
        (["--config", "FILE", "--json", "--emit", "llama-swap"], 64, "give one of them"),
        (["--config", "FILE", "--floor"], 64, "--floor is about one model: leave it or --config out"),
        (["--config", "nowhere.yaml"], 64, "the configuration nowhere.yaml cannot be read"),
        (["--config", "FLAT"], 64, "flat.yaml lists no models: `vram-llm plan MODEL` plans one"),
        (["--config", "MISSING"], 64, "missing.yaml:2: there is no file nowhere.gguf"),
        (
            ["--config", "FILE", "--gpu", "RTX 3090"],
            64,
            "devices: there is no device 1; there is GPU0 (NVIDIA",
        ),
    ],
)
def test_mistakes(args: list[str], code: int, message: str, folder: Path) -> None:
    (folder / "flat.yaml").write_text("port: 80")
    (folder / "missing.yaml").write_text("models:\n  - source: nowhere.gguf")
    named = {"FILE": "fleet.yaml", "FLAT": "flat.yaml", "MISSING": "missing.yaml"}
    done = run_here("plan", *(named.get(arg, arg) for arg in args), cwd=folder, columns=200)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
