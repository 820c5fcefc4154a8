"""Every flag of llama-server has a row, with its names, its variable and its kind of value."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.build_args import plan_build
from scripts.build_facts import read_facts
from scripts.build_llama_server import programs_folder
from scripts.setup import ROOT
from vram_llm.cli import serve
from vram_llm.cli.llama_server_line.flag import (
    ByValue,
    Flag,
    Line,
    Meaning,
    OnOff,
    Option,
    Refused,
    Rule,
    ValueKind,
    Words,
)
from vram_llm.cli.llama_server_line.read_line import read_line
from vram_llm.cli.llama_server_line.rules import RULES
from vram_llm.cli.llama_server_line.table import BY_NAME, FLAGS

_LIST = Path(__file__).with_name("flags.txt")  # made by scripts/llama_server_flags.py
_GUIDE = ROOT / "docs" / "llama-server.md"


def _meanings() -> Iterator[Meaning]:
    for flag in FLAGS:
        match flag.meaning:
            case OnOff(on, off):
                yield from (on, off)
            case ByValue(values, otherwise):
                yield from (*values.values(), otherwise)
            case meaning:
                yield meaning


def _row(line: str) -> tuple[Flag, str]:
    words = line.split()
    return BY_NAME[words[1]], words[0]


@pytest.mark.parametrize("line", _LIST.read_text().splitlines())
def test_the_table_has_each_flag_as_it_is_in_the_source(line: str) -> None:
    flag, kind = _row(line)
    positive, _, negative = line.partition(" / ")
    given = set(line.split()[1:]) - {"/"}
    assert {*flag.names, *flag.negative, *([f"${flag.variable}"] if flag.variable else [])} == given
    assert flag.kind == ValueKind(kind)
    assert set(flag.names) <= set(positive.split())
    assert set(flag.negative) <= set(negative.split())


def test_the_table_has_no_flag_that_llama_server_lacks() -> None:
    assert {id(_row(line)[0]) for line in _LIST.read_text().splitlines()} == {id(flag) for flag in FLAGS}


def test_no_two_rows_have_a_name_or_a_variable_in_common() -> None:
    names = [name for flag in FLAGS for name in (*flag.names, *flag.negative)]
    variables = [flag.variable for flag in FLAGS if flag.variable is not None]
    assert len(names) == len(set(names))
    assert len(variables) == len(set(variables))


def test_every_option_that_a_flag_becomes_exists() -> None:
    known = {flag for option in serve.command.params for flag in (*option.opts, *option.secondary_opts)}
    for meaning in _meanings():
        match meaning:
            case Option(flag):
                assert flag in known
            case Words(words):
                assert words[0] in known
            case Rule(name):
                assert name in RULES
            case Line(words):
                read_line(words.split(), {})


def test_the_documentation_has_every_refused_flag_and_no_other() -> None:
    _, _, section = _GUIDE.read_text().partition("\n## Refused flags\n")
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = {name for cell in cells for name in re.findall(r"`(-[\w-]+)", cell)}
    assert not [names for flag in FLAGS for names in _refused_names(flag) if not listed & set(names)]
    assert all(_may_refuse(BY_NAME[name]) for name in listed - {"-c"})


def _refused_names(flag: Flag) -> Iterator[tuple[str, ...]]:
    """The names of a flag, or of one side of it, that is refused whatever its value."""
    match flag.meaning:
        case OnOff(on, off):
            yield from (names for side, names in ((on, flag.names), (off, flag.negative)) if _refuses(side))
        case ByValue(values, _):
            yield from (flag.names for meaning in values.values() if _refuses(meaning))
        case Refused():
            yield flag.names


def _refuses(meaning: Meaning) -> bool:
    return isinstance(meaning, Refused)


def _may_refuse(flag: Flag) -> bool:
    """Whether a value of the flag is refused; of a rule that is not known."""
    match flag.meaning:
        case ByValue(_, otherwise):
            return _refuses(otherwise)
        case Rule():
            return True
    return bool(list(_refused_names(flag)))


@pytest.mark.process
def test_the_table_has_each_flag_of_the_built_llama_server() -> None:
    facts = read_facts()
    program = programs_folder(facts, plan_build(facts, {})) / "llama-server"
    if not program.is_file():
        pytest.skip("llama-server is not built: `python -m scripts.build_llama_server` builds it")
    printed = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    heads = [line for line in printed.splitlines() if re.match(r"--?[a-zA-Z]", line)]
    named = {
        name for head in heads for name in re.findall(r"(?:^|, +)(--?[a-zA-Z][\w.-]*)", head[:38] + head[38:])
    }
    assert len(heads) > 200
    assert named <= BY_NAME.keys()
