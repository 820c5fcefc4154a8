"""A command whose options may also be set by environment variables and by configuration files.

Keys and variables are made from the flags: --n-ctx, VRAM_LLM_N_CTX, `n-ctx: 32k`. Click converts and checks
all values in the same way. A flag overrides a variable, a variable overrides the file of --config, and that
file overrides the user's own.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import platformdirs

from vram_llm.cli import terminal
from vram_llm.cli.config_file import ConfigEntry, others_can_read, read_config
from vram_llm.cli.key_options import KEYS
from vram_llm.cli.override_options import OVERRIDE_OPTIONS
from vram_llm.cli.plan_options import PLAN_OPTIONS
from vram_llm.cli.settings import OptionSetting, keep_settings
from vram_llm.cli.short_flags import ShortFlagsCommand, given_parameters
from vram_llm.cli.usage_errors import nearest_flag
from vram_llm.errors import BadConfig

_F = TypeVar("_F", bound=Callable[..., Any])
PREFIX = "VRAM_LLM_"
CONFIG_DIR_VARIABLE = "VRAM_LLM_CONFIG_DIR"
CONFIG_VARIABLE = "VRAM_LLM_CONFIG"
NO_CONFIG = "none"

_CONFIG = "config_file"  # the parameter of --config
_MODEL, _PLAN = "model_option", "plan_file"
_REPLACED: Mapping[str, frozenset[str]] = {
    "model": frozenset({_MODEL, _PLAN}),
    _MODEL: frozenset({_PLAN}),
    _PLAN: frozenset({_MODEL, *(option.name for option in PLAN_OPTIONS)}),
    "smart_split": frozenset({"tensor_split"}),
    "tensor_split": frozenset({"smart_split"}),
    "mmproj": frozenset({"no_mmproj"}),
    "no_mmproj": frozenset({"mmproj"}),
    "kv_type": frozenset({"kv_type_k", "kv_type_v"}),
    **dict.fromkeys(OVERRIDE_OPTIONS, OVERRIDE_OPTIONS),
}
"""The options, other than itself, that an option replaces if they were given in a weaker place."""


class ConfiguredCommand(ShortFlagsCommand):
    """A command that reads variables and configuration files before its options are converted."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:  # while a shell completes a word
            given = given_parameters(self, ctx, args)
            asks_for_help = self.get_help_option(ctx)
            if asks_for_help is None or asks_for_help.name not in given:
                keep_settings(ctx, _settings(self, given))
        return super().parse_args(ctx, args)


def config_option(function: _F) -> _F:
    """Add --config."""
    return click.option("--config", _CONFIG, metavar="FILE", expose_value=False, help=(
        "Read options from this YAML file too: `n-ctx: 32k` for --n-ctx 32k. Flags override variables "
        "(VRAM_LLM_N_CTX), variables override FILE, and FILE overrides config.yaml in the user's folder. "
        "none: no file and no variable.  [default: $VRAM_LLM_CONFIG]"
    ))(function)  # fmt: skip


def user_file() -> Path:
    """The user's own file: config.yaml in $VRAM_LLM_CONFIG_DIR, else in the user's configuration folder."""
    folder = os.environ.get(CONFIG_DIR_VARIABLE) or platformdirs.user_config_dir("vram-llm")
    return Path(folder) / "config.yaml"


def _files(named: str | None) -> list[Path]:
    """The files to read, the strongest first."""
    own = user_file()
    return ([Path(named)] if named else []) + ([own] if os.path.lexists(own) else [])


def options_by_key(command: click.Command) -> dict[str, click.Option]:
    """The options that a file may set, by each of their long flags without dashes."""
    return {
        flag.removeprefix("--"): option
        for option in command.params
        if isinstance(option, click.Option) and option.name != _CONFIG
        for flag in option.opts
        if flag.startswith("--")
    }


def key_of(option: click.Option) -> str:
    """The option's key in files: its first long flag."""
    return next(flag for flag in option.opts if flag.startswith("--")).removeprefix("--")


def variable_of(key: str) -> str:
    """The environment variable of a key."""
    return PREFIX + key.upper().replace("-", "_")


def _settings(command: click.Command, given: Mapping[str, Any]) -> dict[str, OptionSetting]:
    """The settings of variables and files, without those that a stronger place replaces."""
    named = given.get(_CONFIG) or os.environ.get(CONFIG_VARIABLE)
    if named == NO_CONFIG:
        return {}
    options = options_by_key(command)
    layers = [_of_variables(options), *(_of_file(path, options) for path in _files(named))]
    found: dict[str, OptionSetting] = {}
    replaced: set[str] = set()
    stronger: Sequence[str] = list(given)
    for layer in layers:
        replaced.update(stronger, *(_REPLACED.get(name, ()) for name in stronger))
        kept = {name: setting for name, setting in layer.items() if name not in replaced}
        found |= kept
        stronger = list(kept)
    return found


def _of_variables(options: Mapping[str, click.Option]) -> dict[str, OptionSetting]:
    """An empty variable sets nothing. A repeated option has a value on each line."""
    found: dict[str, OptionSetting] = {}
    variables = {variable_of(key): option for key, option in options.items()}
    for name, option in variables.items():
        text = os.environ.get(name)
        if not text or not option.name or option.name in found or option.envvar is not None:
            continue
        value = tuple(line for line in text.split("\n") if line) if option.multiple else text
        found[option.name] = OptionSetting(value, f"${name}", "")
    _warn_of_unknown(variables)
    return found


def _warn_of_unknown(variables: Mapping[str, click.Option]) -> None:
    """Other variables may begin alike (Kubernetes sets some for each service): only near misses are named."""
    others = {
        CONFIG_DIR_VARIABLE,
        CONFIG_VARIABLE,
        f"{PREFIX}DATA_DIR",
        f"{PREFIX}CACHE_DIR",
        f"{PREFIX}BACKEND",
    }
    flags = {_flag_of(name): name for name in variables}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in variables and name not in others:
            near = nearest_flag(_flag_of(name), flags)
            if near is not None:
                terminal.say(f"warning: ${name} sets nothing; did you mean ${flags[near]}?", err=True)


def _flag_of(variable: str) -> str:
    return "--" + variable.removeprefix(PREFIX).lower().replace("_", "-")


def _of_file(path: Path, options: Mapping[str, click.Option]) -> dict[str, OptionSetting]:
    """Raises BadConfig."""
    found: dict[str, OptionSetting] = {}
    for entry in read_config(path):
        option = options.get(entry.key.replace("_", "-"))
        if option is None or option.name is None:
            raise BadConfig(f"{entry.place}: {_unknown(entry.key, options)}")
        if option.name in found:
            earlier = found[option.name]
            raise BadConfig(
                f"{entry.place}: {entry.key} sets the same option as {earlier.key} in {earlier.place}"
            )
        found[option.name] = OptionSetting(_value(entry, option), entry.place, entry.key)
    _warn_of_open_keys(path, found)
    return found


def _value(entry: ConfigEntry, option: click.Option) -> Any:
    if option.multiple:
        return entry.texts()
    return entry.data() if entry.is_object and option.type.name == "json" else entry.text()


def _unknown(key: str, options: Mapping[str, click.Option]) -> str:
    flag = "--" + key.replace("_", "-")
    positive = flag.removeprefix("--no-")
    if positive in options and options[positive].secondary_opts:
        return f"there is no option {key}; write {positive}: false"
    near = nearest_flag(flag, [f"--{known}" for known in options])
    return f"there is no option {key}" + (f"; did you mean {near.removeprefix('--')}?" if near else "")


def _warn_of_open_keys(path: Path, settings: Mapping[str, OptionSetting]) -> None:
    keys = settings.get(KEYS)
    if keys is not None and any(not key.startswith("@") for key in keys.value) and others_can_read(path):
        terminal.say(
            f"warning: {path} has API keys, and every user of this computer may read it: chmod 600 {path}",
            err=True,
        )
