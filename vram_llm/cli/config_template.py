"""A configuration file with every option in a comment, and values as YAML."""

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import click

from vram_llm.cli.configured_command import key_of, options_by_key, variable_of
from vram_llm.cli.fleet_options import ENTRY
from vram_llm.cli.plan_options import PLAN_OPTIONS

_WIDTH = 98
_PLAIN = re.compile(r"[A-Za-z0-9./+~-][A-Za-z0-9./+~@_=:,-]*(?<!:)")
_NULLS = ("~", "null", "Null", "NULL")
_HEAD = """\
# Options of `vram-llm serve`: use this file as config.yaml in the user's configuration folder, or with
# --config FILE. Remove the # in front of an option to set it. Flags and variables override this file.
"""
_FLEET_HEAD = """\
# Several models, in place of `model`. Each takes these options, and those above that are about a model; one
# above holds for the models that do not set it themselves.
"""
_FLEET_END = """\

# groups:
#   # Models that are loaded and unloaded together (`together: true`), or never at the same time.
#   - name: NAME
#     models: [NAME, NAME]
#     apart: true

# workers:
#   # RPC workers, each by its address, or by the computer to which an SSH tunnel is opened.
#   - address: HOST:PORT@SIZE
#   - ssh: USER@HOST
#     start: true
"""


def template_of(command: click.Command) -> str:
    """The file, with the options that a model's plan depends on at the end."""
    planning = {option.name for option in PLAN_OPTIONS}
    options = list(dict.fromkeys(options_by_key(command).values()))
    serving = [option for option in options if option.name not in planning]
    parts = (("Serving", serving), ("Planning", [option for option in options if option not in serving]))
    flat = "".join(
        f"\n# -- {title} --\n" + "".join(_entry(option) for option in part) for title, part in parts
    )
    return f"{_HEAD}{flat}\n# -- Several models --\n\n{_fleet()}"


def _fleet() -> str:
    """`models`, `groups` and `workers`, in comments."""
    from vram_llm.cli.fleet_entry import model_options

    options = {key: option for key, option in model_options().items() if option.name in ENTRY}
    lines = [_FLEET_HEAD, "# models:\n"]
    for number, (key, option) in enumerate(options.items()):
        lines += [f"#     {line}" for line in _help(option, None)]
        lines.append(f"#   {' ' if number else '-'} {key}: {_example(option)}\n")
    return "".join(lines) + _FLEET_END


def yaml_of(value: Any) -> str:
    """A value in YAML, on one line; texts are quoted where they need it."""
    if isinstance(value, list):
        return f"[{', '.join(_in_list(one) for one in value)}]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value not in _NULLS else json.dumps(value)
    return json.dumps(value)


def _in_list(text: str) -> str:
    return json.dumps(text) if "," in text else yaml_of(text)


def _entry(option: click.Option) -> str:
    key = key_of(option)
    return f"\n{''.join(_help(option, key))}# {key}: {_example(option)}\n"


def _help(option: click.Option, key: str | None) -> Iterator[str]:
    """The option's help and variable; a `key` of None has no variable."""
    about = " ".join((option.help or "").split())
    if key is not None:
        variable = option.envvar if isinstance(option.envvar, str) else variable_of(key)
        about = f"{about} (${variable})"
    for line in textwrap.wrap(about, _WIDTH - (0 if key else 4), break_long_words=False):
        yield f"# {line}\n"


def _example(option: click.Option) -> str:
    """The default, or a word for the value."""
    default = option.get_default(click.Context(click.Command("serve")))
    word = option.metavar or ("true" if option.is_flag else option.type.name.upper())
    if option.multiple:
        return f"[{word if option.is_flag else json.dumps(word)}]"
    if option.type.name == "json":
        return "{}"
    is_known = isinstance(default, str | int | float)
    return yaml_of(default) if is_known else yaml_of(word) if word != "true" else word
