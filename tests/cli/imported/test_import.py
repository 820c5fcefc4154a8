"""Configurations of llama-swap and llama-server's router as files for `serve`."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.running import run_here
from tests.planner.export.fleets import card_plan
from vram_llm import demo
from vram_llm.cli.imported.imported_model import imported_model
from vram_llm.cli.imported.llama_swap_file import read_llama_swap
from vram_llm.cli.imported.presets_file import models_in, read_presets
from vram_llm.errors import BadConfig
from vram_llm.planner.export.exported_fleet import ExportedFleet, ExportedModel
from vram_llm.planner.export.llama_server_presets import presets
from vram_llm.planner.export.llama_swap import llama_swap_config
from vram_llm.planner.export.setting import Setting

SWAP = """
globalTTL: 600
macros:
  server: /app/llama-server --port ${PORT}
  n: 8192
models:
  qwen:
    cmd: |
      # a comment
      ${server} \\
        -m /m/qwen.gguf -c ${n} -ngl 99 \\
        --temp 0.6 -fa on --api-key secret --host 0.0.0.0
    aliases: [gpt-4o, fast]
    ttl: 300
    filters: {strip_params: temperature}
  hub:
    cmd: env A=1 llama-server --port ${PORT} -hf a/b:Q8_0 -np 2 -n ${own}
    macros: {own: 32}
  other: {cmd: docker run vllm/vllm-openai}
  unread: {cmd: 'llama-server -m "x'}
  wrong: {cmd: llama-server -m x.gguf --no-such-flag}
  ranks: {cmd: "docker run ghcr.io/ggml-org/llama.cpp:server-cuda -m /m/r.gguf --rerank", ttl: 0}
groups:
  one: {swap: true, members: [qwen, hub]}
  all: {swap: false, members: [qwen, ranks]}
hooks: {on_startup: {preload: [qwen]}}
matrix: {}
"""


def imported_swap(tmp_path: Path, text: str) -> tuple[dict[str, Any], str]:
    """The imported file, as data and as text."""
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    written = str(read_llama_swap(file))
    return yaml.safe_load(written), written


def imported_presets(tmp_path: Path, text: str) -> tuple[dict[str, Any], str]:
    file = tmp_path / "models.ini"
    file.write_text(text, encoding="utf-8")
    written = str(read_presets(file))
    return yaml.safe_load(written), written


def test_llama_swap(tmp_path: Path) -> None:
    found, text = imported_swap(tmp_path, SWAP)
    assert found == {
        "models": [
            {
                "name": "qwen",
                "source": "/m/qwen.gguf",
                "aliases": ["gpt-4o", "fast"],
                "n-ctx": 8192,
                "temperature": 0.6,
                "flash-attn": True,  # YAML 1.1's reading of on; `serve` reads the word
                "ttl": "300s",
                "preload": True,
            },
            {
                "name": "hub",
                "source": "hf:a/b:Q8_0",
                "parallel": 2,
                "kv-unified": False,
                "n-predict": 32,
                "ttl": "600s",
            },
            {"name": "ranks", "source": "/m/r.gguf", "pooling": "rank"},
        ],
        "groups": [{"name": "one", "models": ["qwen", "hub"], "apart": True}],
    }
    comments = [line.strip() for line in text.splitlines() if line.lstrip().startswith("#")]
    assert comments[:2] == [
        "# not taken: matrix; the memory decides which models are loaded together",
        "# left out: other: its command is not llama-server's: docker run vllm/vllm-openai ...",
    ]
    assert comments[2].startswith("# left out: unread: its command cannot be read:")
    assert comments[3].startswith("# left out: wrong: ")
    assert comments[4:] == [
        "# not taken: the group all; the memory decides which models are loaded together",
        "# not taken: filters: {'strip_params': 'temperature'}",
        "# ignored: -ngl 99: the plan of several models decides where each is",
        "# not taken: --api-key ... holds for the whole server",
        "# not taken: env A=1",
        "# not taken: docker run",
    ]
    assert "secret" not in text


def test_a_token_and_offline_are_named_without_the_token() -> None:
    model = imported_model("a", ["-hf", "org/repo", "--hf-token", "secret", "--offline"])
    assert model.remarks == (
        "not taken: set HF_TOKEN in the server's environment",
        "not taken: set HF_HUB_OFFLINE in the server's environment",
    )


def test_presets(tmp_path: Path) -> None:
    found, text = imported_presets(
        tmp_path,
        """
        version = 1
        ; a comment
        [*]
        c = 8192  # for all
        a = other
        no-mmap = 1
        jinja = true
        [qwen]
        model = /m/qwen.gguf
        LLAMA_ARG_CACHE_TYPE_K = q8_0
        mmproj-offload = off
        load-on-startup = true
        [a/b:Q4_K_M]
        ctx-size = 4096
        no-mmap = 0
        alias = g,gemma
        n-gpu-layers = 8
        """,
    )
    assert found["models"] == [
        {"name": "qwen", "source": "/m/qwen.gguf", "n-ctx": 8192, "mmap": False, "kv-type-k": "q8_0",
         "mmproj-device": "host", "aliases": ["other"],
         "preload": True},
        {"name": "a/b:Q4_K_M", "source": "hf:a/b:Q4_K_M", "aliases": ["g", "gemma"], "n-ctx": 4096,
         "mmap": True},
    ]  # fmt: skip
    assert "# ignored: --n-gpu-layers 8: the plan of several models" in text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[a]\nmodel", "FILE:2: this is neither [NAME] nor KEY = VALUE"),
        ("[a]\nmodle = x", "FILE: llama-server has no flag modle, in [a]"),
        ("[a]\nc = 8", "a: its line names no model"),
        ("[a]\nm = x\nc = many", "a: --ctx-size"),
        ("[a]\nm = x\ntools = all", "a: --tools all"),
    ],
)
def test_what_is_wrong_in_presets_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadConfig) as caught:
        imported_presets(tmp_path, text)
    assert str(caught.value).replace(str(tmp_path / "models.ini"), "FILE").startswith(sentence)


FLEET = ExportedFleet(
    models=(
        ExportedModel(
            name="chat",
            plan=card_plan(0, 1, name="chat"),
            aliases=("x", "y"),
            preload=True,
            ttl_s=600.0,
            settings=(Setting("--temp", "0.1", None), Setting("--reasoning", "off", None)),
        ),
        ExportedModel(name="coder", plan=card_plan(0, name="coder")),
    ),
    sets=(frozenset({"chat"}), frozenset({"coder"})),
)


def test_our_own_exports_come_back(tmp_path: Path) -> None:
    from_swap, _ = imported_swap(tmp_path, llama_swap_config(FLEET))
    from_presets, _ = imported_presets(tmp_path, presets(FLEET))
    assert from_swap["groups"] == [{"name": "one-of-1", "models": ["chat", "coder"], "apart": True}]
    for found in (from_swap, from_presets):
        chat, coder = found["models"]
        assert (chat["name"], chat["source"], chat["aliases"]) == (
            "chat",
            "/srv/models/chat.gguf",
            ["x", "y"],
        )
        assert (chat["preload"], chat["temperature"], chat["reasoning"]) == (True, 0.1, False)
        context = FLEET.models[0].plan.context
        assert (chat["n-ctx"], chat["parallel"]) == (context.n_ctx, context.parallel)
        assert (coder["name"], coder["source"]) == ("coder", "/srv/models/coder.gguf")
        assert "preload" not in coder
    assert from_swap["models"][0]["ttl"] == "600s"


@pytest.mark.parametrize(("name", "text"), [("c.yaml", SWAP), ("p.ini", "[a]\nm = /m/a.gguf\nfa = on")])
def test_config_reads_what_it_imported(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    imported = run_here("config", "--import", str(tmp_path / name))
    assert imported.returncode == 0, imported.stderr
    (tmp_path / "own.yaml").write_text(imported.stdout, encoding="utf-8")
    effective = run_here("config", "--config", str(tmp_path / "own.yaml"))
    assert effective.returncode == 0, effective.stderr
    assert "flash-attn: on " in effective.stdout


def test_models_of_a_folder_have_the_names_of_their_files_or_subfolders(tmp_path: Path) -> None:
    model = Path(demo.path())
    for name in ("a.gguf", "big/b-q4.gguf", "more/c.gguf", "more/d.gguf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(model)
    assert [each.name for each in models_in(tmp_path)] == ["a", "big", "c", "d"]
