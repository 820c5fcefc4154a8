import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests import zoo
from tests.zoo.heads import HEADS
from vram_llm.cli.analyze import command
from vram_llm.errors import MissingShard, ModelFileError, ModelNotFound
from vram_llm.machine.types import Machine
from vram_llm.planner.types import Workload
from vram_llm.workflows import detection, planning


def analyze(*args: str | Path, columns: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(command, [str(arg) for arg in args])


@pytest.fixture
def nemotron(tmp_path: Path) -> Path:
    return zoo.write(zoo.nemotron_49b(), tmp_path / "m.gguf", shard_bytes=40 * 10**9)


def test_json_of_the_pruned_49b(nemotron: Path) -> None:
    found = json.loads(analyze(nemotron, "--json").stdout)
    expected = {
        "architecture": "deci", "name": "Llama 3.3 Nemotron Super 49B v1.5", "quantization": "Q8_0",
        "n_layers": 80, "context_length": 131072, "vocab_size": 128256, "tied_output": False,
        "token_embd_bytes": 128256 * 8192 // 32 * 34, "output_bytes": 128256 * 8192 // 32 * 34,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    assert found["total_bytes"] == 52_986_970_368
    assert [Path(shard["path"]).name for shard in found["shards"]] == [
        "m-00001-of-00002.gguf", "m-00002-of-00002.gguf",
    ]  # fmt: skip
    assert sum(shard["bytes"] for shard in found["shards"]) > found["total_bytes"]
    assert found["layers"][6] == {
        "index": 6, "bytes": 374_374_400, "attention_bytes": 0, "ffn_bytes": 374_374_400, "expert_bytes": 0,
        "recurrent_bytes": 0, "other_bytes": 0, "kv_bytes_per_token": 0, "sliding_window": False,
        "recurrent_state_bytes": 0,
    }  # fmt: skip
    assert found["layers"][8]["kv_bytes_per_token"] == 4096


def test_the_model_may_be_an_option(nemotron: Path) -> None:
    assert analyze("--model", nemotron, "--json").stdout == analyze(nemotron, "--json").stdout


@pytest.mark.parametrize("args", [[], ["a", "--model", "b"]])
def test_one_model_and_no_more(args: list[str]) -> None:
    assert "name one model" in analyze(*args).stderr


def test_the_table_folds_equal_layers(nemotron: Path) -> None:
    lines = analyze(nemotron).stdout.splitlines()
    assert "parameters     49.87 B" in [line.rstrip() for line in lines]
    assert any(line.startswith("12-41       867.1 4.00 KiB █") for line in lines)
    assert any(line.startswith("6-7         357.0        - ▓") for line in lines)
    assert any(line.startswith("embedding 1,064.6") for line in lines)
    assert any(line.startswith("output    1,064.6") for line in lines)
    assert lines[-1].rstrip() == "layers: min 70.2, mean 605.0, max 867.1 MiB"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nemotron_nano", "experts        6 of 128 used per token"),
        ("nemotron_nano", "recurrent      23 of 52 layers, 47.6 MiB per sequence"),
        ("gemma3_27b", "sliding window 1,024 tokens in 52 of 62 layers"),
        ("gemma3_27b", "output        0.0          = embedding"),
        ("qwen3next", "layers         5, 1 of them draft"),
        ("bert", "KV cache       none"),
        ("llama_8b", "KV cache       128 KiB per token at f16"),
        ("llama_8b", "█ attention ▓ ffn"),
    ],
)
def test_says_what_the_model_has(name: str, line: str, tmp_path: Path) -> None:
    path = zoo.write((zoo.PUBLISHED | zoo.SMALL)[name](), tmp_path / "m.gguf")
    assert line in [each.rstrip() for each in analyze(path).stdout.splitlines()]


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("name", zoo.PUBLISHED)
def test_stays_inside_the_terminal(name: str, columns: int, tmp_path: Path) -> None:
    path = zoo.write(zoo.PUBLISHED[name](), tmp_path / "m.gguf")
    shown = analyze(path, columns=columns).stdout
    assert max(map(len, shown.splitlines())) <= columns
    assert "\x1b" not in shown
    assert "…" not in shown


@pytest.mark.process
def test_plain_characters_where_the_output_has_no_others(tmp_path: Path) -> None:
    path = zoo.write(zoo.gemma3(2), tmp_path / "m.gguf")
    code = "from vram_llm.cli.analyze import command; command()"
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "40"}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=env, capture_output=True, check=True)
    assert b"# attention = ffn" in done.stdout


def test_names_cannot_carry_terminal_codes(tmp_path: Path) -> None:
    model = zoo.llama(1, 64, 4, 2, 128, 96)
    model.metadata["general.name"] = "[bold]x\x1b[2Jy"
    shown = analyze(zoo.write(model, tmp_path / "m.gguf")).stdout
    assert shown.startswith("[bold]x?[2Jy\n")


def test_errors_are_raised_for_the_front_to_print(nemotron: Path) -> None:
    nemotron.with_name("m-00002-of-00002.gguf").unlink()
    assert isinstance(analyze(nemotron).exception, MissingShard)
    assert isinstance(analyze("gone.gguf").exception, ModelNotFound)


@pytest.mark.process
def test_json_is_made_without_heavy_imports(tmp_path: Path) -> None:
    path = zoo.write(zoo.llama(1), tmp_path / "m.gguf")
    code = (
        "import sys; from vram_llm.cli.analyze import command; command(standalone_mode=False);"
        "heavy = {'rich', 'numpy', 'gguf', 'llama_cpp', 'pydantic'} & set(sys.modules);"
        "print(sorted(heavy), file=sys.stderr)"
    )
    args = [sys.executable, "-c", code, str(path), "--json"]
    done = subprocess.run(args, capture_output=True, check=True, text=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.process
@pytest.mark.parametrize("arch", ["eagle3", "qwen35"])
def test_a_draft_head_in_a_file_of_its_own_is_named(arch: str, tmp_path: Path) -> None:
    """It is analysed, and neither planned nor served: it lacks what llama.cpp needs of a model."""
    model = HEADS["qwen35"]()
    model.arch = arch
    model.tensors = {name: shape for name, shape in model.tensors.items() if not name.startswith("blk.0.")}
    kind = {"eagle3": "an EAGLE-3 head", "qwen35": "an MTP head without its model"}[arch]
    path = zoo.write(model, tmp_path / "head.gguf")
    assert f"no model       {kind}, which drafts for its model" in analyze(path, columns=120).stdout
    assert json.loads(analyze(path, "--json").stdout)["draft_head"] == kind
    with pytest.raises(ModelFileError, match=f"head.gguf is {kind}, which only drafts for its model"):
        planning.plan(str(path), Machine(devices=(), host=detection.detect().host), Workload())
