"""API keys from the command line, from files and from the environment."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vram_llm.cli import keys
from vram_llm.cli.key_options import VARIABLE, read_key, read_keys


@click.command()
@click.option("--api-key", "api_keys", multiple=True, envvar=VARIABLE, callback=read_keys)
@click.option("--one", envvar="VRAM_LLM_TESTS_KEY", callback=read_key)
def command(api_keys: tuple[str, ...], one: str | None) -> None:
    click.echo(f"{','.join(api_keys)} {one}")


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "keys"
    path.write_text("# Ann's\nfirst\n\nsecond # Bob's\n")
    return f"@{path}"


def test_a_key_of_the_command_line_is_warned_of(file: str) -> None:
    done = CliRunner().invoke(command, ["--api-key", "typed", "--api-key", file])
    assert done.stdout == "typed,first,second None\n"
    assert "`ps` shows everybody" in done.stderr
    assert "typed" not in done.stderr


def test_keys_that_ps_does_not_show(file: str) -> None:
    done = CliRunner(env={VARIABLE: f"third {file}"}).invoke(command, ["--one", file])
    assert (done.stdout, done.stderr) == ("third,first,second first\n", "")
    done = CliRunner(env={VARIABLE: "third"}).invoke(command, ["--api-key", file])
    assert (done.stdout, done.stderr) == ("first,second None\n", "")


def test_the_first_key_of_a_variable_with_several(file: str) -> None:
    done = CliRunner(env={"VRAM_LLM_TESTS_KEY": f"{file} third"}).invoke(command)
    assert (done.stdout, done.stderr) == (" first\n", "")


@pytest.mark.parametrize("text", [b"", b"# Ann's\n \n", b"\xff\xfe", None])
def test_a_file_without_keys(tmp_path: Path, text: bytes | None) -> None:
    path = tmp_path / "keys"
    if text is not None:
        path.write_bytes(text)
    done = CliRunner().invoke(command, ["--api-key", f"@{path}"])
    assert done.exit_code != 0
    assert done.stdout == ""


@pytest.mark.parametrize("flag", ["--api-key", "--one"])
def test_an_empty_key(flag: str) -> None:
    done = CliRunner().invoke(command, [flag, " "])
    assert "an empty text is no API key" in done.stderr


def test_keys_of_a_file(tmp_path: Path) -> None:
    ask = CliRunner().invoke
    file = ("--keys-file", str(tmp_path / "keys.json"))
    made = ask(keys.command, ["add", "ann", "--scope", "metrics", "--for-model", "gemma", *file])
    assert re.fullmatch(r"sk-\w{12}-\S{43}\n", made.stdout)
    assert "the only time that the key is shown" in made.stderr
    ask(keys.command, ["add", "bob", *file])
    listed = ask(keys.command, ["list", *file]).stdout
    assert listed == "ann: metrics; gemma\nbob: inference; all models\n"
    ask(keys.command, ["change", "ann", "--weight", "2.5", "--requests-per-minute", "60", *file])
    ask(keys.command, ["change", "ann", "--max-sequences", "1000", "--max-requests", "2", *file])
    ask(keys.command, ["change", "ann", "--requests-per-minute", "0", "--tokens-per-minute", "5", *file])
    listed = ask(keys.command, ["list", *file]).stdout.splitlines()[0]
    assert listed.endswith("; weight 2.5, 2 requests in flight, 1,000 answers in flight, 5 tokens a minute")
    assert ask(keys.command, ["change", "eve", "--weight", "2", *file]).exit_code != 0
    ask(keys.command, ["remove", "ann", *file])
    assert ask(keys.command, ["list", *file]).stdout == "bob: inference; all models\n"
