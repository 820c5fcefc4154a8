"""Completions: scripts that shells can read, and what a real bash completes with its own."""

import shutil
import sys
from pathlib import Path

import click
import pytest

from tests.cli.running import environment, run_program
from vram_llm.cli import serve
from vram_llm.cli.complete_model import complete_model
from vram_llm.cli.completion import command

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    command.main([shell], standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.process
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_its_shell_can_read(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "script"
    path.write_text(script(shell, capsys))
    assert "_VRAM_LLM_COMPLETE" in path.read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}, to read its script")
    assert run_program(shell, "-n", path).returncode == 0


@bash
@pytest.mark.process
def test_bash_completes_commands_flags_choices_and_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "script").write_text(script("bash", capsys))
    (tmp_path / "tiny.gguf").write_bytes(b"")
    (tmp_path / "tiny.txt").write_bytes(b"")
    program = tmp_path / "vram-llm"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vram_llm "$@"\n')
    program.chmod(0o755)
    ask = """
        . ./script
        for line in "conf" "serve --served-m" "serve --reasoning o" "serve ti" "serve --model ti"; do
            read -ra words <<< "$line"
            COMP_WORDS=(vram-llm "${words[@]}") COMP_CWORD=${#words[@]} COMPREPLY=()
            _vram_llm_completion vram-llm
            echo "$line: ${COMPREPLY[*]}"
        done
    """
    env = {**environment(), "PATH": f"{tmp_path}:{environment()['PATH']}", "VRAM_LLM_CONFIG": "nowhere"}
    done = run_program("bash", "-c", ask, cwd=tmp_path, env=env)
    assert (done.stdout, done.stderr) == (
        "conf: config\n"
        "serve --served-m: --served-model-name\n"
        "serve --reasoning o: on off\n"
        "serve ti: tiny.gguf\n"
        "serve --model ti: tiny.gguf\n",
        "",
    )


def test_models_are_files_of_their_folder(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf", "[c.gguf"):
        (tmp_path / name).write_bytes(b"")
    context, param = click.Context(serve.command), serve.command.params[0]

    def offered(text: str) -> list[tuple[str, str]]:
        return [(item.type, item.value) for item in complete_model(context, param, text)]

    assert offered(f"{tmp_path}/a") == [("plain", f"{tmp_path}/a.gguf")]
    assert offered(f"{tmp_path}/[") == [("plain", f"{tmp_path}/[c.gguf")]
    assert len(offered(f"{tmp_path}/")) == 3
    assert offered(f"{tmp_path}/x") == [("file", f"{tmp_path}/x")]
