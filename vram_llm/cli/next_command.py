"""Command lines to paste: the flags given, and the next command."""

import os
import shlex
import subprocess
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import click

from vram_llm.cli.short_flags import given_options
from vram_llm.cli.terminal import is_ascii_output
from vram_llm.model.location import is_remote

if TYPE_CHECKING:
    from vram_llm.planner.types import Plan


def given_words(ctx: click.Context, names: Collection[str]) -> tuple[str, ...]:
    """The options of `names` on the command line, with their values as typed."""
    words: list[str] = []
    for param, value in given_options(ctx):
        if param.name not in names:
            continue
        flag = param.opts[0]
        if param.is_flag:
            words.append(flag if value else param.secondary_opts[0])
        else:  # an option that may go without its value has another type of value then
            words += [flag, value] if isinstance(value, str) else [flag]
    return tuple(words)


def next_command(plan: "Plan", model: str, words: Sequence[str]) -> str:
    """The next command: serve this plan, fetch its model first, or print it for another machine."""
    if is_remote(model):
        return joined("vram-llm", "pull", model, *words)
    if plan.is_what_if:
        return joined("vram-llm", "plan", model, *words, "--emit", "llama-server")
    return joined("vram-llm", "serve", model, *words)


def joined(*words: str) -> str:
    """The words quoted for a shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """The word for a POSIX shell; with its bytes as numbers if it is not ASCII and the output is."""
    if word.isascii() or not is_ascii_output():
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, os.fsencode(word)))}'"


def _escaped(byte: int) -> str:
    char = chr(byte)
    return char if 32 <= byte < 127 and char not in "\\'" else f"\\x{byte:02x}"
