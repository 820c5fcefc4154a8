"""`plan --emit` and `plan --check` as a person runs them."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from tests import zoo
from tests.cli.running import run, run_here
from tools.random_model import write_llama
from vram_llm.planner.export.formats import FORMATS, emit, from_json
from vram_llm.units import GIB

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("plans_made_once")]

RIG = ["--gpu", "RTX 4080 Laptop", "--gpu", "2x RTX 3090 Ti"]
TINY = ["--n-ctx", "512", "--parallel", "2", "--reserve-mib", "0"]


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("49b")
    return zoo.write(zoo.nemotron_49b(), folder / "49b.gguf", shard_bytes=40 * 10**9)


@pytest.fixture(scope="module")
def what_if_plan(nemotron: Path) -> Path:
    saved = nemotron.parent / "what-if.json"
    saved.write_text(run_here("plan", nemotron, *RIG, "--n-ctx", "2048", "--json").stdout)
    return saved


def test_every_format_has_the_same_split(nemotron: Path, what_if_plan: Path) -> None:
    command = run_here("plan", nemotron, *RIG, "--n-ctx", "2048", "--emit", "llama-server")
    assert command.returncode == 0
    plan = from_json(what_if_plan.read_bytes(), "the plan")
    printed = {form: emit(plan, form) for form in FORMATS}
    words = shlex.split(printed["llama-server"].replace("\\\n", " "), comments=True)
    assert words == shlex.split(command.stdout.replace("\\\n", " "), comments=True)
    split = ",".join(map(str, plan.placement.tensor_split))
    assert words[words.index("--tensor-split") + 1] == split
    assert f"export LLAMA_ARG_TENSOR_SPLIT={split}\n" in printed["env"]
    words = yaml.safe_load(printed["compose"])["services"]["llama-server"]["command"]
    assert words[words.index("--tensor-split") + 1] == split
    assert f"tensor_split=[{split.replace(',', ', ')}]" in printed["llama-cpp-python"]
    for form in set(FORMATS) - {"json"}:
        assert "<UUID of NVIDIA GeForce RTX 3090 Ti>" in printed[form]


def test_a_model_in_the_current_folder_has_its_absolute_path(tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf")
    printed = run("plan", "tiny.gguf", "--emit", "env", *TINY, cwd=tmp_path).stdout
    assert f"export LLAMA_ARG_MODEL={tmp_path}/tiny.gguf\n" in printed


def test_a_plan_for_other_cards_is_checked_against_cards(what_if_plan: Path) -> None:
    fits = run_here("plan", "--check", what_if_plan, *RIG)
    assert fits.returncode == 0, fits.stderr
    assert "still fits" in fits.stdout
    assert "GPU2" in fits.stdout
    smaller = run_here(
        "plan", "--check", what_if_plan, "--gpu", "RTX 4080 Laptop", "--gpu", "2x RTX 3090 Ti@16GiB"
    )
    assert smaller.returncode == 2
    assert smaller.stderr.count("GiB short") == 2
    assert "(GPU1)" in smaller.stderr
    assert "(GPU2)" in smaller.stderr
    assert "(GPU0)" not in smaller.stderr
    assert smaller.stdout == ""
    fewer = run_here("plan", "--check", what_if_plan, "--gpu", "RTX 4080 Laptop", "--gpu", "RTX 3090 Ti")
    assert fewer.returncode == 23
    assert "RTX 3090 Ti (GPU2) is not here" in fewer.stderr


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_the_table_fits_the_terminal(what_if_plan: Path, columns: int) -> None:
    done = run_here("plan", "--check", what_if_plan, *RIG, columns=columns)
    assert max(map(len, done.stdout.splitlines())) <= columns


def test_workers_whose_limit_was_lowered(workers: tuple[str, ...], tmp_path: Path) -> None:
    model = write_llama(tmp_path / "tiny.gguf", n_ff=(2048,) * 8, n_embd=256)
    rpc = [part for endpoint in workers[:2] for part in ("--rpc", f"{endpoint}@64MiB")]
    saved = tmp_path / "plan.json"
    saved.write_text(run("plan", model, *rpc, *TINY, "--tensor-split", "1,1", "--json").stdout)
    planned = {use["id"]: use["total_bytes"] for use in json.loads(saved.read_text())["estimate"]["devices"]}
    assert set(planned) == {"RPC0", "RPC1"}

    fits = run_here("plan", "--check", saved, "--json")
    assert fits.returncode == 0, fits.stderr
    found = json.loads(fits.stdout)
    assert found["fits"] is True
    assert [room["free_bytes"] for room in found["devices"][:2]] == [64 * 2**20] * 2
    assert {room["id"]: room["needed_bytes"] for room in found["devices"][:2]} == planned

    short = run_here("plan", "--check", saved, "--rpc", f"{workers[1]}@{planned['RPC1'] - 2**20}")
    assert short.returncode == 2
    assert f"worker {workers[1]} (RPC1) is 1.00 MiB short" in short.stderr
    assert "RPC0" not in short.stderr

    more = run_here("plan", "--check", saved, "--rpc", f"{workers[1]}@{GIB}", "--json")
    assert json.loads(more.stdout)["devices"][1]["free_bytes"] == GIB
    other = run_here("plan", "--check", saved, "--rpc", workers[2])
    assert other.returncode == 64
    assert f"the plan uses no worker at {workers[2]}" in other.stderr


def test_a_worker_that_is_gone(workers: tuple[str, ...], tmp_path: Path) -> None:
    model, saved = write_llama(tmp_path / "tiny.gguf"), tmp_path / "plan.json"
    text = run("plan", model, "--rpc", f"{workers[0]}@1GiB", *TINY, "--json").stdout
    saved.write_text(text.replace(workers[0], "127.0.0.1:1"))
    done = run_here("plan", "--check", saved)
    assert done.returncode == 21
    assert "no worker answers at 127.0.0.1:1" in done.stderr


@pytest.mark.parametrize(
    ("other", "code", "message"),
    [
        ({"n_ff": (256,) * 4}, 23, "has changed since the plan was made"),
        ({"n_ff": (128,) * 5}, 23, "is another model now: 5 layers of llama, the plan is for 4"),
        (None, 10, "there is no file"),
    ],
)
def test_a_model_file_that_changed(
    tmp_path: Path, other: dict[str, tuple[int, ...]] | None, code: int, message: str
) -> None:
    model, saved = write_llama(tmp_path / "tiny.gguf"), tmp_path / "plan.json"
    saved.write_text(run_here("plan", model, *TINY, "--json").stdout)
    assert run_here("plan", "--check", saved, "--reserve-mib", "0").returncode == 0
    model.unlink()
    if other is not None:
        write_llama(model, n_ff=other["n_ff"])
    done = run_here("plan", "--check", saved, columns=200)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--emit", "env"], 64, "give the model to plan for"),
        (["x.gguf", "--emit", "nonsense"], 64, "'nonsense' is not one of"),
        (["x.gguf", "--emit", "env", "--json"], 64, "give one of them"),
        (["x.gguf", "--emit", "env", "--ways", "all"], 64, "--ways changes the table"),
        (["--check", "plan.json", "--verbose"], 64, "--verbose changes the report of one plan"),
        (["x.gguf", "--check", "plan.json"], 64, "takes the saved plan and no model"),
        (["--check", "plan.json", "--emit", "env"], 64, "nothing is planned or emitted"),
        (["--check", "nowhere.json"], 23, "cannot be read"),
    ],
)
def test_flags_that_contradict(args: list[str], code: int, message: str, tmp_path: Path) -> None:
    done = run_here("plan", *args, cwd=tmp_path, columns=200)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
