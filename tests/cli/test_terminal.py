"""The output of commands to an encoding that lacks characters, and to a reader that goes away."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests import zoo
from tests.cli.running import command, environment
from tests.patience import PATIENCE_S
from tools.random_model import write_llama

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.write(zoo.llama(), tmp_path_factory.mktemp("terminal") / "é中×.gguf")


def output(*args: str | Path, **variables: str) -> bytes:
    env = {key: value for key, value in environment().items() if not key.startswith(("LC_", "LANG"))}
    done = subprocess.run(
        command(*args), env=env | variables, capture_output=True, timeout=PATIENCE_S, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C"}, {"LC_ALL": "POSIX"}, {"PYTHONIOENCODING": "cp437"}],
)
@pytest.mark.parametrize("args", [["analyze"], ["plan", "--gpu", "RTX 3090"]])
def test_ascii(model: Path, args: list[str], variables: dict[str, str]) -> None:
    shown = output(*args, model, **variables)
    assert b"##" in shown
    if variables.get("PYTHONIOENCODING") != "cp437":  # which has some symbols
        assert shown.isascii()
        for command_line in re.findall(rb"^next: (.*)$", shown, re.MULTILINE):  # pasted, it names the file
            words = subprocess.run(
                ["bash", "-c", b"printf '%s\\n' " + command_line], capture_output=True, check=True
            )
            assert str(model) in words.stdout.decode().splitlines()


def test_cp1252_keeps_what_it_has(model: Path) -> None:
    shown = output("plan", model, "--gpu", "RTX 3090", PYTHONIOENCODING="cp1252").decode("cp1252")
    assert "##" in shown
    assert "·" in shown


def test_utf_8(model: Path) -> None:
    assert "▇" in output("plan", model, "--gpu", "RTX 3090", PYTHONIOENCODING="utf-8").decode()


def test_data_stay_utf_8(model: Path) -> None:
    plan = json.loads(output("plan", model, "--gpu", "RTX 3090", "--json", PYTHONIOENCODING="ascii"))
    assert plan["model"]["path"] == str(model)


def test_a_name_of_other_bytes_than_utf_8(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "plain.gguf").rename(tmp_path / os.fsdecode(b"\xff.gguf"))
    assert output("plan", path, PYTHONIOENCODING="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="a POSIX pipe")
@pytest.mark.parametrize(
    "args", [["--help"], ["analyze", "MODEL"], ["plan", "MODEL", "--gpu", "RTX 3090"], ["plan", "--json"]]
)
def test_a_reader_that_goes_away(model: Path, args: list[str]) -> None:
    words = [model if word == "MODEL" else word for word in args]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            command(*words),
            env=environment(),
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
