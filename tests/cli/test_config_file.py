"""Each mistake in a configuration file is one sentence with the file and the line."""

import os
import time
from pathlib import Path

import click
import pytest

from vram_llm.cli import serve
from vram_llm.cli.configured_command import CONFIG_VARIABLE
from vram_llm.cli.usage_errors import sentence
from vram_llm.errors import BadConfig

HELP = " (`serve --help` explains)"
MISTAKES = {
    "port: 80\nprot: 81": "FILE:2: there is no option prot; did you mean port?",
    "# more\n\nmax-model-len: 32k": "FILE:3: there is no option max-model-len; did you mean n-ctx?",
    "colour: blue": "FILE:1: there is no option colour",
    "config: other.yaml": "FILE:1: there is no option config",
    "no-mmap: true": "FILE:1: there is no option no-mmap; write mmap: false",
    "port: abc": "vram-llm: FILE:1: port: 'abc' is not a whole number" + HELP,
    "port: 70000": "vram-llm: FILE:1: port: 70000 is not in the range 0<=x<=65535" + HELP,
    "min_p: high": "vram-llm: FILE:1: min_p: 'high' is not a number" + HELP,
    "a: b: c": "FILE:1: this is not YAML: mapping values are not allowed here",
    "insecure: maybe": "FILE:1: insecure: 'maybe' is neither true nor false",
    "n-ctx: lots": "FILE:1: n-ctx: 'lots' is not a count; write it like 4096 or 32k",
    "reasoning: 3": "FILE:1: reasoning: '3' is not one of 'auto', 'on', 'off'",
    "image-dir: /nowhere": "FILE:1: image-dir: Directory '/nowhere' does not exist",
    "port: [80, 81]": "FILE:1: port takes one value, not a list",
    "port:\n  number: 80": "FILE:1: port takes one value, not lines of its own",
    "alias:\n  first: a": "FILE:1: alias takes a list, not lines of its own",
    "alias: [a, [b]]": "FILE:1: alias takes a list of plain values",
    "chat-template-kwargs: 3": "FILE:1: chat-template-kwargs: '3' is not a JSON object",
    "chat-template-kwargs: [1]": "FILE:1: chat-template-kwargs takes one value, not a list",
    "chat-template-kwargs:\n  a: 1\n  b: [{c: 1, c: 2}]": "FILE:3: c is here twice, first on line 3",
    f"chat-template-kwargs: {{a: {'9' * 5000}}}": "FILE:1: this number has too many digits",
    "model:": "FILE:1: model has no value; give one, or remove the line",
    "alias: [a, null]": "FILE:1: alias has no value",
    "port: 80\nhost: ::1\nport: 81": "FILE:3: port is here twice, first on line 1",
    "n-ctx: 1k\nctx_size: 2k": "FILE:2: ctx_size sets the same option as n-ctx in FILE:1",
    "alias:\n\t- a": "FILE:2: a tab stands where YAML takes spaces",
    "alias: [a, b\nport: 80": "FILE:2: this is not YAML: ",
    "host: 'a": "FILE:1: this is not YAML: found unexpected end of stream",
    "- port: 80": "FILE:1: a configuration is lines of `option: value`",
    "\nport:80": "FILE:2: a configuration is lines of `option: value`",
    "[a, b]: c": "FILE:1: a key is a name, not a list or an object",
    "port: 80\n---\nport: 81": "FILE:2: a second document begins, and a configuration is one",
    "port: !!python/object/apply:os.system [ls]": "FILE:1: port takes one value, not a list",
    "host: !secret x": "FILE:1: tags (!secret) are not read; write the value alone",
    "alias: &a [b]\ncors-origin: *a": "FILE:2: aliases (*name) are not read; repeat the value",
    "host: a\x00b": "FILE:1: the character U+0000 cannot stand in YAML",
    'host: "\\ud83d"': "FILE:1: this is not YAML: half of a character is escaped here",
    "alias: " + "[" * 1000: "FILE has brackets or lines nested too deeply",
    "# " + "x" * 300_000: "the configuration FILE cannot be read: it is larger than 256 KiB",
}


def complaint(path: Path) -> str:
    """The sentence that `serve --config PATH` ends with."""
    try:
        serve.command.make_context("serve", ["--config", str(path)])
    except BadConfig as error:
        return str(error)
    except click.UsageError as error:
        return sentence(error)
    pytest.fail("it was taken")


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:30])
def test_a_mistake(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    found = complaint(path).replace(str(path), "FILE")
    assert "\n" not in found
    assert found.removeprefix("serve: ").startswith(MISTAKES[text].removeprefix("vram-llm: "))


def test_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"port: 80\nhost: \xff")
    assert complaint(path) == f"{path}:2: this is not text in UTF-8"


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, why in (("nowhere", "No such file or directory"), ("", "it is not a regular file"),
                      ("fifo", "it is not a regular file")):  # fmt: skip
        path = tmp_path / name
        assert complaint(path) == f"the configuration {path} cannot be read: {why}"


def test_aliases_that_stand_for_gigabytes_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))]
    path.write_text("\n".join(lines))
    began = time.process_time()
    assert complaint(path) == f"{path}:2: aliases (*name) are not read; repeat the value"
    assert time.process_time() - began < 60


def test_a_variable_with_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that Kubernetes sets for a service of this name is no port either."""
    monkeypatch.setenv("VRAM_LLM_PORT", "tcp://10.0.0.1:8080")
    with pytest.raises(click.UsageError) as caught:
        serve.command.make_context("serve", [])
    assert sentence(caught.value).startswith(
        "serve: $VRAM_LLM_PORT: 'tcp://10.0.0.1:8080' is not a whole number"
    )
    monkeypatch.setenv(CONFIG_VARIABLE, "none")
    serve.command.make_context("serve", [])


def test_files_that_set_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for text in ("", "# port: 80\n", "---\n", "{}", "\ufeff# with a mark"):
        path.write_text(text)
        assert serve.command.make_context("serve", ["--config", str(path)]).default_map == {}


def test_help_needs_no_file() -> None:
    with pytest.raises(click.exceptions.Exit) as caught:
        serve.command.make_context("serve", ["--config", "nowhere", "--help"])
    assert caught.value.exit_code == 0
