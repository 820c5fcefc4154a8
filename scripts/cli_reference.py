"""Write docs/cli.md, with every command and its options, from the commands' own help.

python -m scripts.cli_reference
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from vram_llm.cli.main import cli

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """# Commands

Written by `python -m scripts.cli_reference` from the commands' own `--help`; do not edit.
"""
SHARING = ("vram-llm plan", "vram-llm serve")  # options of both are listed once
WIDTH = 10_000  # help texts are not wrapped


def reference() -> str:
    """The text of docs/cli.md."""
    commands = dict(_walk("vram-llm", cli))
    plan, serve = (commands[name] for name in SHARING)
    known = {_key(option) for option in _options(serve)}
    shared = [option for option in _options(plan) if _key(option) in known and option.name != "model_option"]
    sections = [_section(name, command, shared) for name, command in commands.items()]
    planning = ["## Options for planning\n", *_rows(shared, _context(SHARING[0], plan))]
    return "\n".join([HEAD, *sections, *planning]) + "\n"


def main() -> None:
    """Write docs/cli.md."""
    OUTPUT.write_text(reference(), encoding="utf-8")
    sys.stdout.write(f"{OUTPUT}\n")


def _walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = _context(name, command)
    for inner_name in command.list_commands(context):
        inner = command.get_command(context, inner_name)
        if inner is not None:
            yield from _walk(f"{name} {inner_name}", inner)


def _context(name: str, command: click.Command) -> click.Context:
    return click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)


def _options(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option)]


def _key(option: click.Option) -> tuple[str | None, str | None]:
    return option.name, option.help


def _section(name: str, command: click.Command, shared: list[click.Option]) -> str:
    context, elsewhere = _context(name, command), {_key(option) for option in shared}
    options = _options(command)
    takes_all = elsewhere <= {_key(option) for option in options}
    if takes_all:
        options = [option for option in options if _key(option) not in elsewhere]
    lines = [f"## {name}\n", f"    {name} {' '.join(command.collect_usage_pieces(context))}\n"]
    lines += [" ".join(paragraph.split()) + "\n" for paragraph in (command.help or "").split("\n\n")]
    lines += _rows(options, context)
    if takes_all:
        lines.append("\nIt also takes the options for planning below.")
    return "\n".join([*lines, ""])


def _rows(options: list[click.Option], context: click.Context) -> list[str]:
    if not options:
        return []
    rows = ["| option | meaning |", "|---|---|"]
    for option in options:
        record = option.get_help_record(context)
        if record is not None:
            flags, meaning = (" ".join(text.split()).replace("|", "\\|") for text in record)
            rows.append(f"| `{flags}` | {meaning} |")
    return rows


if __name__ == "__main__":
    main()
