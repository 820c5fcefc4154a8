"""vram-llm config: the options that `serve` would use, each with its place; and a template of a file."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
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
class EffectiveModel:
    """A model of a fleet: the options that its entry sets, and its name. Others are those of the server."""

    options: tuple[EffectiveOption, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveList:
    """`groups` or `workers` of a file, as written there. `place` is FILE:LINE."""

    key: str
    value: list[dict[str, Any] | str]
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveConfig:
    """`config --json`. Without a fleet, `models` is empty, and `options` have the model."""

    options: tuple[EffectiveOption, ...]
    models: tuple[EffectiveModel, ...] = ()
    lists: tuple[EffectiveList, ...] = ()


@click.command("config", cls=ShortFlagsCommand, context_settings={"ignore_unknown_options": True})
@click.argument("more", metavar="[OPTIONS OF SERVE]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--template", is_flag=True, help="Print a file with all options, each in a comment.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of files, with which editors check them.")
@click.option("--import", "imported", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              metavar="FILE", help=(
    "Print llama-swap's config.yaml, or llama-server's presets (INI), as a file for `serve`; comments say "
    "what is not taken."
))  # fmt: skip
def command(
    more: tuple[str, ...], as_json: bool, template: bool, schema: bool, imported: Path | None
) -> None:
    """Show the options that `vram-llm serve` would use, and where each comes from.

    The output is a configuration file itself, without API keys. MODEL and options of `serve` may follow:
    --config FILE, --n-ctx. Of several models, each has the options that hold for it alone.
    """
    from vram_llm.cli import serve
    from vram_llm.cli.config_template import template_of
    from vram_llm.cli.configured_command import options_by_key
    from vram_llm.cli.effective_fleet import effective_lists, effective_models

    if imported is not None:
        terminal.say(_imported(imported))
        return
    if schema:
        click.echo(files("vram_llm").joinpath("schemas/config-file.json").read_bytes(), nl=False)
        return
    if template:
        terminal.say(template_of(serve.command), nl=False)
        return
    context = serve.command.make_context("vram-llm serve", list(more))
    config = EffectiveConfig(
        options=tuple(effective_options(context, options_by_key(serve.command).values())),
        models=effective_models(context),
        lists=effective_lists(context),
    )
    if as_json:
        click.echo(document(config))
        return
    for line in _lines(config):
        terminal.say(line)


def _imported(path: Path) -> str:
    """The text of a configuration. Raises BadConfig."""
    from vram_llm.cli.imported.llama_swap_file import read_llama_swap
    from vram_llm.cli.imported.presets_file import read_presets

    read = read_presets if path.suffix.lower() == ".ini" else read_llama_swap
    return f"# from {path.name}\n{read(path)}"


def effective_options(ctx: click.Context, options: Iterable[click.Option]) -> Iterator[EffectiveOption]:
    """The values of options of a context, each once, with their places."""
    from vram_llm.cli.configured_command import key_of
    from vram_llm.cli.key_options import KEYS
    from vram_llm.cli.settings import settings_of
    from vram_llm.cli.short_flags import given_options

    typed: dict[str | None, list[Any]] = {}
    for option, written in given_options(ctx):
        typed.setdefault(option.name, []).append(written)
    settings = settings_of(ctx)
    for option in dict.fromkeys(options):
        name = str(option.name)
        value: Any = option.get_default(ctx)
        source, place = OptionSource.DEFAULT, None
        if name == "model_option" and len(ctx.params.get("model", ())) == 1:
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


def _lines(config: EffectiveConfig) -> Iterator[str]:
    """YAML, with the place in a comment; what is not set, and keys, are comments themselves."""
    from vram_llm.cli.config_template import yaml_of

    yield from _option_lines(config.options)
    for number, model in enumerate(config.models):
        if number == 0:
            yield "models:"
        for place, text in enumerate(_option_lines(model.options)):
            yield f"{'    ' if place else '  - '}{text}"
    for listed in config.lists:
        yield f"{listed.key}:  # {listed.place}"
        yield from (
            f"  - {json.dumps(one) if isinstance(one, dict) else yaml_of(one)}" for one in listed.value
        )


def _option_lines(options: tuple[EffectiveOption, ...]) -> Iterator[str]:
    from vram_llm.cli.config_template import yaml_of

    texts = {
        option.key: f"# {option.key}:" + (f" {_HIDDEN}" if option.value == _HIDDEN else "")
        if option.value in (None, _HIDDEN)
        else f"{option.key}: {yaml_of(option.value)}"
        for option in options
    }
    width = max((len(text) for text in texts.values() if len(text) <= 44), default=0)
    for option in options:
        place = option.place or ("not set" if option.value is None else "default")
        yield f"{texts[option.key]:{width}}  # {place}"
