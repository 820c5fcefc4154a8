"""Models by name: listed, and accepted wherever a path is."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests import zoo
from tests.cli import running
from tests.cli.running import environment
from tools.random_model import write_llama

pytestmark = pytest.mark.process


def run(
    home: Path, *args: str, columns: int = 200, encoding: str = "utf-8"
) -> "subprocess.CompletedProcess[str]":
    """Run `vram-llm` in that home, within this process."""
    gone = ("HF_HUB_CACHE", "HF_HOME", "OLLAMA_MODELS", "LLAMA_CACHE")
    kept = {name: value for name, value in environment(columns).items() if name not in gone}
    return running.run_here(*args, env=kept | {"HOME": str(home)}, encoding=encoding)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / ".lmstudio" / "models" / "pub" / "repo"
    folder.mkdir(parents=True)
    write_llama(folder / "tiny.gguf")
    (folder / "broken.gguf").write_text("this is no model")
    return tmp_path


def test_the_list(home: Path) -> None:
    title, broken, tiny, *legend = run(home, "models", "--gpu", "3060").stdout.splitlines()
    assert title.split() == ["model", "size", "type", "fits", "context", "tok/s", "from"]
    assert re.fullmatch(r"broken +16 B +unreadable +LM Studio", broken)
    assert re.fullmatch(r"tiny +[\d.]+ [MK]iB +Q8_0 +yes +[\dk,]+ +[\d,.]+ +LM Studio", tiny)
    assert "analytic meter" in " ".join(legend)


def test_the_list_as_json(home: Path) -> None:
    document = json.loads(run(home, "models", "--gpu", "3060", "--json").stdout)
    assert document["version"] == 1
    broken, tiny = document["models"]
    assert tiny["bytes"] == Path(tiny["path"]).stat().st_size
    assert (tiny["fits"], tiny["cpu_layers"], tiny["basis"]) == (True, 0, "catalog")
    assert (tiny["quantization"], tiny["kept_by"]) == ("Q8_0", "LM Studio")
    assert (broken["quantization"], broken["fits"], "not a GGUF" in broken["reason"]) == (None, None, True)


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_list_on_narrow_and_wide_terminals(home: Path, columns: int, encoding: str) -> None:
    folder = home / ".lmstudio" / "models" / "pub" / "repo"
    zoo.write(zoo.llama(), folder / "Meta-Llama-3.1-8B-Instruct-Q8_0.gguf")
    zoo.write(zoo.nemotron_49b(), folder / "Llama-3_3-Nemotron-Super-49B-v1_5-Q8_0.gguf")
    done = run(home, "models", "--gpu", "4080 laptop", columns=columns, encoding=encoding)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert "Meta-Llama-3.1-8B-Instruct-Q8_0" in done.stdout
    text = " ".join(done.stdout.split())
    for fact in ("7.95 GiB", "does not fit" if columns < 100 else "no", "LM Studio"):
        assert fact in text


def test_each_listed_name_is_taken(home: Path) -> None:
    (home / ".cache" / "llama.cpp").mkdir(parents=True)
    write_llama(home / ".cache" / "llama.cpp" / "tiny.gguf")
    names = [row["short_name"] for row in json.loads(run(home, "models", "--json").stdout)["models"]]
    assert names == ["llama.cpp:tiny.gguf", "broken", "lmstudio:pub/repo/tiny.gguf"]
    assert run(home, "analyze", names[0]).returncode == 0


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
    assert [row["model"] for row in json.loads(done.stdout)["plans"]] == [
        "vram-llm demo",
        "tiny llama of 4 layers",
    ]


def test_nothing_there(tmp_path: Path) -> None:
    done = run(tmp_path, "models")
    assert done.returncode == 0
    assert "vram-llm pull hf:" in done.stdout
