"""Models by name: listed, and taken wherever a path is."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import PATIENCE_S, command, environment
from tools.random_model import write_llama


def run(home: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    gone = ("HF_HUB_CACHE", "HF_HOME", "OLLAMA_MODELS", "LLAMA_CACHE")
    kept = {name: value for name, value in environment(200).items() if name not in gone}
    return subprocess.run(
        command(*args), env={**kept, "HOME": str(home)}, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / ".lmstudio" / "models" / "pub" / "repo"
    folder.mkdir(parents=True)
    write_llama(folder / "tiny.gguf")
    (folder / "broken.gguf").write_text("this is no model")
    return tmp_path


def test_the_list(home: Path) -> None:
    rows = run(home, "models").stdout.splitlines()
    assert [row.split()[-2:] for row in rows] == [
        ["unreadable", "lmstudio:pub/repo/broken.gguf"],
        ["Q8_0", "lmstudio:pub/repo/tiny.gguf"],
    ]
    found = json.loads(run(home, "models", "--json").stdout)
    assert found[1]["bytes"] == Path(found[1]["path"]).stat().st_size
    assert (found[0]["quantization"], found[1]["quantization"]) == (None, "Q8_0")


def test_a_name_is_as_good_as_a_path(home: Path) -> None:
    assert "tiny llama of 4 layers" in run(home, "analyze", "lmstudio:pub/repo/tiny.gguf").stdout
    plan = json.loads(run(home, "plan", "lmstudio:pub/repo/tiny.gguf", "--json").stdout)
    assert Path(plan["model"]["path"]).is_file()
    gone = run(home, "plan", "ollama:none")
    assert (gone.returncode, "`vram-llm models` lists" in gone.stderr) == (10, True)


def test_a_part_of_a_name_is_enough(home: Path) -> None:
    assert "tiny llama of 4 layers" in run(home, "analyze", "Tiny").stdout
    write_llama(home / ".lmstudio" / "models" / "pub" / "repo" / "tiny-2.gguf")
    several = run(home, "plan", "repo")
    assert several.returncode == 10
    assert "repo may be any of 3 models" in several.stderr
    assert "lmstudio:pub/repo/tiny-2.gguf" in several.stderr
    unknown = run(home, "plan", "tinny")
    assert unknown.returncode == 10
    assert "nearest are lmstudio:pub/repo/tiny" in unknown.stderr


def test_a_part_of_a_name_is_a_model_to_compare_with(home: Path) -> None:
    done = run(home, "plan", "demo", "--compare", "tiny", "--gpu", "24GB", "--json")
    assert [row["model"] for row in json.loads(done.stdout)] == ["vram-llm demo", "tiny llama of 4 layers"]


def test_nothing_there(tmp_path: Path) -> None:
    done = run(tmp_path, "models")
    assert done.returncode == 0
    assert "vram-llm pull hf:" in done.stdout
