"""`vram-llm plan FOLDER`: the table on any terminal, and what is refused."""

from pathlib import Path

import pytest

from tests import zoo
from tests.cli.running import run, run_here
from tools.random_model import write_llama

pytestmark = pytest.mark.process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    for quant in ("Q4_K", "Q8_0"):
        zoo.write(zoo.llama(), tmp_path / "m" / f"llama-{quant}.gguf", quant)
    return tmp_path


@pytest.mark.parametrize("columns", [40, 80])
def test_the_table_fits_the_terminal(folder: Path, columns: int) -> None:
    by = run if columns == 40 else run_here
    done = by("plan", "m", "--gpu", "RTX 3060", "--n-ctx", "4k", cwd=folder, columns=columns)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    commands = [line for line in lines if line.startswith("next: ")]
    assert commands == ["next: vram-llm plan m/llama-Q8_0.gguf --gpu 'RTX 3060' --n-ctx 4k"]
    assert max(len(line) for line in lines if line not in commands) <= columns
    assert "with 4k of context" in " ".join(done.stdout.split())


def test_a_folder_with_one_model_is_planned(folder: Path) -> None:
    (folder / "m" / "llama-Q4_K.gguf").unlink()
    done = run_here("plan", "m", "--gpu", "RTX 3060", cwd=folder)
    assert "next: vram-llm plan m/llama-Q8_0.gguf --gpu 'RTX 3060' --emit llama-server" in done.stdout
    (folder / "m" / "style.gguf").touch()
    done = run_here("plan", "m", "--gpu", "RTX 3060", cwd=folder)
    assert "style: m/style.gguf is empty" in done.stdout


def test_if_nothing_fits_the_table_is_printed_and_the_exit_code_says_so(folder: Path) -> None:
    done = run_here("plan", "m", "--gpu", "1GiB", "--n-gpu-layers", "all", cwd=folder)
    assert done.returncode == 2
    assert "llama-Q4_K" in done.stdout
    assert "none of the 2 models in m fits: llama-Q4_K is" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["plan", "m", "--emit", "llama-server"], 64, "m holds 2 models, and --emit is for one: name it"),
        (["plan", "m", "--explain"], 64, "m holds 2 models, and --explain is for one: name it"),
        (["plan", "m", "--draft", "tiny.gguf"], 64, "m holds 2 models, and --draft is for one: name it"),
        (["plan", "empty"], 10, "empty holds no .gguf model; name a folder that does"),
        (["serve", "./m"], 10, "m holds 2 models, which `vram-llm plan` compares"),
    ],
)
def test_faults(folder: Path, args: list[str], code: int, said: str) -> None:
    (folder / "empty").mkdir()
    write_llama(folder / "tiny.gguf")
    by = run if args[0] == "serve" else run_here
    done = by(*args, cwd=folder)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
