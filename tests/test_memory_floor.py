"""The floor by llama.cpp's dry run, and the same bytes by a plan with the flags that a step prints."""

import json
from pathlib import Path

import pytest

import vram_llm
from tests import zoo
from tests.cli.running import run_here
from tools.random_model import write_llama
from vram_llm.errors import BadPlan
from vram_llm.planner.types import Lora

pytestmark = pytest.mark.process


def test_the_flags_of_each_step_plan_its_bytes(tmp_path: Path) -> None:
    zoo.write(zoo.qwen3_moe(12), tmp_path / "moe.gguf", "Q4_K")
    rig = ("--gpu", "RTX 2060 + RTX 3060")
    done = run_here("plan", "moe.gguf", "--floor", "--json", *rig, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    floor = json.loads(done.stdout)
    assert {step["method"] for step in floor["steps"]} == {"dry run"}
    assert {row["method"] for row in floor["least"]} == {"analytic"}
    for step in floor["steps"]:
        planned = run_here("plan", "moe.gguf", *rig, *step["flags"], "--json", cwd=tmp_path)
        assert planned.returncode == 0, planned.stderr
        estimate = json.loads(planned.stdout)["estimate"]
        assert sum(use["total_bytes"] for use in estimate["devices"]) == step["vram_bytes"]
        assert estimate["host"]["total_bytes"] == step["ram_bytes"]


def test_the_next_command_keeps_what_was_given(tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf")
    done = run_here("plan", "tiny.gguf", "--floor", "--gpu", "RTX 3060", "-c", "1k", "--mmap", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (command,) = [line for line in done.stdout.splitlines() if line.startswith("next: ")]
    assert command.startswith(
        "next: vram-llm plan tiny.gguf --gpu 'RTX 3060' --mmap --n-ctx 1k --parallel 1 "
    )
    assert command.count("--n-ctx") == 1


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--floor"], 64, "give the model: `vram-llm plan MODEL --floor`"),
        (["tiny.gguf", "--floor", "--emit", "env"], 64, "--floor prints tables of its own: leave --emit out"),
        (["tiny.gguf", "--floor", "--explain"], 64, "leave --explain out"),
        (["tiny.gguf", "--floor", "--compare", "RTX 3060"], 64, "leave --compare out"),
        (
            ["tiny.gguf", "--floor", "--draft", "tiny.gguf"],
            23,
            "leave adapters, control vectors, projector and draft",
        ),
        (["tiny.gguf", "--floor", "-ngl", "2"], 23, "leave the options of the split out"),
        ([".", "--floor"], 64, ". holds 2 models, and --floor is for one: name it"),
    ],
)
def test_faults(tmp_path: Path, args: list[str], code: int, said: str) -> None:
    write_llama(tmp_path / "tiny.gguf")
    write_llama(tmp_path / "other.gguf")
    done = run_here("plan", *args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr


def test_a_model_that_fits_in_no_way(tmp_path: Path) -> None:
    zoo.write(zoo.deepseek2(), tmp_path / "r1.gguf")
    done = run_here("plan", "r1.gguf", "--floor", "--gpu", "RTX 3060", cwd=tmp_path)
    assert done.returncode == 2
    assert "everything on the CPU" in done.stdout
    assert "does not fit in any way" in done.stderr
    assert "next:" not in done.stdout


def test_in_python(tmp_path: Path) -> None:
    model = str(write_llama(tmp_path / "tiny.gguf"))
    floor = vram_llm.memory_floor(model, vram_llm.detect(gpus="RTX 3060"), vram_llm.Workload(n_ctx=1024))
    assert floor.floor is not None
    assert floor.steps[0].n_ctx == 1024
    with pytest.raises(BadPlan, match="leave adapters"):
        vram_llm.memory_floor(
            model, vram_llm.detect(gpus="RTX 3060"), vram_llm.Workload(loras=(Lora("x.gguf"),))
        )
