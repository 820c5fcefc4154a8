"""vram-llm config: the options that `serve` would use, each with its place; and a template of a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import click
from click.core import ParameterSource

from vram_llm.cli import terminal
from vram_llm.cli.json_document import document
from vram_llm.cli.short_flags import ShortFlagsCommand

_HIDDEN = "(hidden)"
_NUMBERS_AND_SWITCHES = tuple(type(kind) for kind in (click.INT, click.FLOAT, click.BOOL))


class OptionSource(StrEnum):
    """Where an option's value comes from."""

    COMMAND_LINE = "command line"
    VARIABLE = "variable"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveOption:
    """An option of `serve`. `value` is as written; None: not set. `place`: a flag, $VARIABLE or FILE:LINE."""

    key: str
    value: str | int | float | bool | list[str] | dict[str, Any] | None
    source: OptionSource
    place: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveConfig:
    """`config --json`."""

    options: tuple[EffectiveOption, ...]


@click.command("config", cls=ShortFlagsCommand, context_settings={"ignore_unknown_options": True})
@click.argument("more", metavar="[OPTIONS OF SERVE]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--template", is_flag=True, help="Print a file with all options, each in a comment.")
def command(more: tuple[str, ...], as_json: bool, template: bool) -> None:
    """Show the options that `vram-llm serve` would use, and where each comes from.

    The output is a configuration file itself, without API keys. MODEL and options of `serve` may follow:
    --config FILE, --n-ctx.
    """
    from vram_llm.cli import serve
    from vram_llm.cli.config_template import template_of

    if template:
        terminal.say(template_of(serve.command), nl=False)
        return
    context = serve.command.make_context("vram-llm serve", list(more))
    options = tuple(_effective(context))
    if as_json:
        click.echo(document(EffectiveConfig(options=options)))
        return
    for line in _lines(options):
        terminal.say(line)


def _effective(ctx: click.Context) -> Iterator[EffectiveOption]:
    from vram_llm.cli.configured_command import key_of, options_by_key
    from vram_llm.cli.key_options import KEYS
    from vram_llm.cli.settings import settings_of
    from vram_llm.cli.short_flags import given_options

    typed: dict[str | None, list[Any]] = {}
    for option, written in given_options(ctx):
        typed.setdefault(option.name, []).append(written)
    settings = settings_of(ctx)
    for option in dict.fromkeys(options_by_key(ctx.command).values()):
        name = str(option.name)
        value: Any = option.get_default(ctx)
        source, place = OptionSource.DEFAULT, None
        if name == "model_option" and ctx.params.get("model"):
            value, source, place = ctx.params["model"][0], OptionSource.COMMAND_LINE, "MODEL"
        elif name in typed:
            value = typed[name] if option.multiple else typed[name][-1]
            source, place = OptionSource.COMMAND_LINE, option.opts[0]
        elif ctx.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
            source, place = OptionSource.VARIABLE, f"${option.envvar}"
        elif name in settings:
            value, place = settings[name].value, settings[name].place
            source = OptionSource.VARIABLE if place.startswith("$") else OptionSource.FILE
        if name == KEYS:
            value = _HIDDEN if ctx.params[name] else None
        yield EffectiveOption(
            key=key_of(option), value=_value(value, option, ctx), source=source, place=place
        )


def _value(written: Any, option: click.Option, ctx: click.Context) -> Any:
    """A number, a switch, an object or a list as such, other values as written."""
    converted = ctx.params[str(option.name)]
    if option.multiple and isinstance(written, list | tuple):
        return [str(one) for one in written] or None
    if option.multiple and not converted:
        return None
    if option.type.name == "json" or isinstance(option.type, _NUMBERS_AND_SWITCHES):
        return converted
    texts = (one for one in (written, converted) if isinstance(one, str))  # --flash-attn may have no value
    return next(texts, None)


def _lines(options: tuple[EffectiveOption, ...]) -> Iterator[str]:
    """YAML, with the place in a comment; what is not set, and keys, are comments themselves."""
    from vram_llm.cli.config_template import yaml_of

    texts = {
        option.key: f"# {option.key}:" + (f" {_HIDDEN}" if option.value == _HIDDEN else "")
        if option.value in (None, _HIDDEN)
        else f"{option.key}: {yaml_of(option.value)}"
        for option in options
    }
    width = max(len(text) for text in texts.values() if len(text) <= 44)
    for option in options:
        place = option.place or ("not set" if option.value is None else "default")
        yield f"{texts[option.key]:{width}}  # {place}"
