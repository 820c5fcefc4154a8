"""`vram-llm llama-server` without a model: llama-server's router."""

from pathlib import Path

import pytest

from tests.cli.running import run_here
from tests.server.live import serving
from vram_llm import demo
from vram_llm.cli.imported import router


@pytest.fixture
def presets(tmp_path: Path) -> str:
    file = tmp_path / "presets.ini"
    file.write_text(
        f"[*]\nc = 2048\nthreads = 1\n[one]\nmodel = {demo.path()}\n[two]\nm = {demo.path()}\na = second\n",
        encoding="utf-8",
    )
    return str(file)


def test_presets_are_a_file_of_several_models(presets: str) -> None:
    printed = run_here("llama-server", "--models-preset", presets, "-ngl", "99", "--port", "9", "--print")
    assert printed.returncode == 0, printed.stderr
    model = demo.path()
    assert printed.stdout.splitlines() == [
        "cat > vram-llm.yaml <<'END'",
        "models:",
        "  - name: one",
        f"    source: {model}",
        "    n-ctx: 2048",
        "    threads: 1",
        "  - name: two",
        f"    source: {model}",
        "    aliases: [second]",
        "    n-ctx: 2048",
        "    threads: 1",
        "END",
        "vram-llm serve --config vram-llm.yaml --port 9 --cors-origin '*'",
        "# ignored: -ngl 99: the plan of several models decides where each is",
    ]


def test_a_folder_of_models(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").symlink_to(demo.path())
    printed = run_here("llama-server", "--models-dir", str(tmp_path), "--print")
    assert printed.returncode == 0, printed.stderr
    assert f"  - name: a\n    source: {tmp_path}/a.gguf\n" in printed.stdout


def test_without_a_model_all_that_are_installed_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "_any_installed", lambda: True)
    assert "source: installed" in run_here("llama-server", "--print").stdout
    monkeypatch.setattr(router, "_any_installed", lambda: False)
    for line in ((), ("-m", "")):
        printed = run_here("llama-server", *line, "--print").stdout
        assert printed == "vram-llm serve --cors-origin '*'\n"


def test_a_named_model_that_sleeps_is_a_file_of_one_entry() -> None:
    line = ("-m", "m.gguf", "-a", "a,b", "--sleep-idle-seconds", "60", "-c", "9")
    assert run_here("llama-server", *line, "--print").stdout.splitlines() == [
        "cat > vram-llm.yaml <<'END'",
        "models:",
        "  - name: a",
        "    source: m.gguf",
        "    aliases: [b]",
        "    preload: true",
        "END",
        "vram-llm serve --config vram-llm.yaml --ttl 60 --n-ctx 9 --cors-origin '*'",
    ]


@pytest.mark.parametrize("flag", ["--models-preset", "--models-dir"])
def test_a_place_that_is_not_there_is_a_sentence(flag: str) -> None:
    refused = run_here("llama-server", flag, "/nowhere")
    assert refused.returncode not in (0, 1)
    assert "/nowhere" in refused.stderr


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "have no model: a section [NAME] with its keys is one"),
        (b"\xff", "cannot be read: they are no text in UTF-8"),
        (None, "cannot be read: Is a directory"),
    ],
)
def test_presets_without_a_model_are_a_sentence(tmp_path: Path, data: bytes | None, reason: str) -> None:
    path = tmp_path / "presets.ini"
    path.mkdir() if data is None else path.write_bytes(data)
    refused = run_here("llama-server", "--models-preset", str(path), "--print")
    assert (refused.returncode, refused.stderr) == (64, f"vram-llm: the presets {path} {reason}\n")


@pytest.mark.process
def test_presets_are_served(presets: str) -> None:
    with serving("--models-preset", presets, command_name="llama-server") as served:
        served.await_health()
        assert {model.id for model in served.client.models.list()} >= {"one", "two"}
        answer = served.client.completions.create(model="second", prompt="1 2 3", max_tokens=4)
        assert answer.choices[0].text
        assert served.end() == 0
