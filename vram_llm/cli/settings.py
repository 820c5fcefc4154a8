"""Values of options from the environment and from files, each with its place, kept in click's context."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource

_SETTINGS = "vram_llm.settings"


@dataclass(frozen=True, slots=True)
class OptionSetting:
    """A value as click's types take it: text, the texts of a repeated option, or an object for JSON."""

    value: Any
    place: str  # "$VRAM_LLM_PORT" or "FILE:LINE"
    key: str  # the option's name there; "" if the place says it

    def __str__(self) -> str:
        return f"{self.place}: {self.key}" if self.key else self.place


def keep_settings(ctx: click.Context, settings: Mapping[str, OptionSetting]) -> None:
    """Let the options of the context's command take these values by default. Keys are names of parameters."""
    ctx.meta[_SETTINGS] = settings
    ctx.default_map = {name: setting.value for name, setting in settings.items()}


def settings_of(ctx: click.Context | None) -> Mapping[str, OptionSetting]:
    """The settings of a command's options by environment and files, by the name of the parameter."""
    found: Mapping[str, OptionSetting] = ctx.meta.get(_SETTINGS, {}) if ctx is not None else {}
    return found


def place_of(ctx: click.Context | None, option: click.Option) -> str:
    """Where the option's value was given: the flag, the variable, or the line of a file with the key."""
    settings = settings_of(ctx)
    is_flag_given = (
        ctx is not None and ctx.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    )
    return str(settings[option.name]) if option.name in settings and not is_flag_given else option.opts[0]


def is_given(ctx: click.Context, option: click.Option) -> bool:
    """Whether the option is on the command line or in the configuration; `false` there is no flag."""
    if option.name is None or ctx.get_parameter_source(option.name) is ParameterSource.DEFAULT:
        return False
    value = ctx.params[option.name]
    is_switch = option.is_flag and not option.secondary_opts
    return not is_switch or (any(value) if option.multiple else bool(value))
