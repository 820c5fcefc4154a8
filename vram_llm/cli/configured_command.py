"""A command whose options may also be set by environment variables and by configuration files.

Keys and variables are made from the flags: --n-ctx, VRAM_LLM_N_CTX, `n-ctx: 32k`. Click converts and checks
all values in the same way. A flag overrides a variable, a variable overrides the file of --config, and that
file overrides the user's own.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
_LAYERS, _GIVEN, _ARGUMENTS = "vram_llm.layers", "vram_llm.given", "vram_llm.arguments"
_MODEL, _PLAN = "model_option", "plan_file"
MODELS, GROUPS, WORKERS = "models", "groups", "workers"
_LISTS = (MODELS, GROUPS, WORKERS)
_REPLACED: Mapping[str, frozenset[str]] = {
    "model": frozenset({_MODEL, _PLAN, MODELS, GROUPS}),
    _MODEL: frozenset({_PLAN, MODELS, GROUPS}),
    _PLAN: frozenset({_MODEL, MODELS, GROUPS, *(option.name for option in PLAN_OPTIONS)}),
    MODELS: frozenset({_MODEL, _PLAN}),
    "smart_split": frozenset({"tensor_split"}),
    "tensor_split": frozenset({"smart_split"}),
    "mmproj": frozenset({"no_mmproj"}),
    "chat_template": frozenset({"chat_template_file"}),
    "chat_template_file": frozenset({"chat_template"}),
    "no_mmproj": frozenset({"mmproj"}),
    "kv_type": frozenset({"kv_type_k", "kv_type_v"}),
    **dict.fromkeys(OVERRIDE_OPTIONS, OVERRIDE_OPTIONS),
}
"""The options, other than itself, that an option replaces if they were given in a weaker place."""


@dataclass(frozen=True, slots=True)
class ConfigLayer:
    """The settings of one place, the environment or a file, and the file's lists of objects by key."""

    settings: Mapping[str, OptionSetting]
    lists: Mapping[str, ConfigEntry] = field(default_factory=dict)


class ConfiguredCommand(ShortFlagsCommand):
    """A command that reads variables and configuration files before its options are converted."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:  # while a shell completes a word
            given = given_parameters(self, ctx, args)
            asks_for_help = self.get_help_option(ctx)
            if asks_for_help is None or asks_for_help.name not in given:
                layers = _layers(self, given)
                ctx.meta[_LAYERS], ctx.meta[_GIVEN] = layers, frozenset(given)
                ctx.meta[_ARGUMENTS] = tuple(args)
                keep_settings(ctx, merged(layers, given).settings)
        return super().parse_args(ctx, args)


def given_names(ctx: click.Context) -> frozenset[str]:
    """The parameters that are on the command line of the context's command."""
    found: frozenset[str] = ctx.meta.get(_GIVEN, frozenset())
    return found


def arguments_of(ctx: click.Context) -> tuple[str, ...]:
    """The command line of the context's command, without its name."""
    found: tuple[str, ...] = ctx.meta.get(_ARGUMENTS, ())
    return found


def layers_of(ctx: click.Context) -> list[ConfigLayer]:
    """The environment and the files of the context's command, the strongest first."""
    found: list[ConfigLayer] = ctx.meta.get(_LAYERS, [])
    return found


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


def _layers(command: click.Command, given: Mapping[str, Any]) -> list[ConfigLayer]:
    named = given.get(_CONFIG) or os.environ.get(CONFIG_VARIABLE)
    if named == NO_CONFIG:
        return []
    options = options_by_key(command)
    return [ConfigLayer(_of_variables(options)), *(_of_file(path, options) for path in _files(named))]


def merged(layers: Iterable[ConfigLayer], given: Iterable[str]) -> ConfigLayer:
    """The settings and lists of all layers, without those that stronger layers, or `given` flags, replace."""
    settings: dict[str, OptionSetting] = {}
    lists: dict[str, ConfigEntry] = {}
    replaced: set[str] = set()
    stronger: Sequence[str] = list(given)
    for layer in layers:
        replaced.update(stronger, *(_REPLACED.get(name, ()) for name in stronger))
        kept = {name: setting for name, setting in layer.settings.items() if name not in replaced}
        kept_lists = {name: entry for name, entry in layer.lists.items() if name not in replaced}
        settings |= kept
        lists |= kept_lists
        stronger = [*kept, *kept_lists]
    return ConfigLayer(settings, lists)


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


def _of_file(path: Path, options: Mapping[str, click.Option]) -> ConfigLayer:
    """Raises BadConfig."""
    lists: dict[str, ConfigEntry] = {}
    entries: list[ConfigEntry] = []
    for entry in read_config(path):
        if entry.key in _LISTS:
            lists[entry.key] = entry
        else:
            entries.append(entry)
    found = settings_of_entries(entries, options, lambda key: unknown_key(key, options, _LISTS))
    _check_lists(found, lists)
    _warn_of_open_keys(path, found)
    return ConfigLayer(found, lists)


def settings_of_entries(
    entries: Iterable[ConfigEntry], options: Mapping[str, click.Option], unknown: Callable[[str], str]
) -> dict[str, OptionSetting]:
    """The settings of a file, or of an object in it, by the name of the parameter.

    `unknown` says what is wrong with a key that is not in `options`. Raises BadConfig.
    """
    found: dict[str, OptionSetting] = {}
    for entry in entries:
        option = options.get(entry.key.replace("_", "-"))
        if option is None or option.name is None:
            raise BadConfig(f"{entry.place}: {unknown(entry.key)}")
        if option.name in found:
            earlier = found[option.name]
            raise BadConfig(
                f"{entry.place}: {entry.key} sets the same option as {earlier.key} in {earlier.place}"
            )
        found[option.name] = OptionSetting(_value(entry, option), entry.place, entry.key)
    return found


def _check_lists(settings: Mapping[str, OptionSetting], lists: Mapping[str, ConfigEntry]) -> None:
    """Raises BadConfig for a file that names its model in two ways, or groups without models."""
    for name in (_MODEL, _PLAN):
        if MODELS in lists and name in settings:
            setting = settings[name]
            raise BadConfig(
                f"{setting.place}: {setting.key} names the one model to serve, and {MODELS} in "
                f"{lists[MODELS].place} lists several: give one of them"
            )
    if GROUPS in lists and MODELS not in lists:
        raise BadConfig(f"{lists[GROUPS].place}: {GROUPS} needs {MODELS} in the same file")


def _value(entry: ConfigEntry, option: click.Option) -> Any:
    if option.multiple:
        return entry.texts()
    return entry.data() if entry.is_object and option.type.name == "json" else entry.text()


def unknown_key(key: str, options: Mapping[str, click.Option], more: Iterable[str] = ()) -> str:
    """A sentence on a key that is not in `options`, with the key that may be meant, also of `more` keys."""
    flag = "--" + key.replace("_", "-")
    positive = flag.removeprefix("--no-")
    if positive in options and options[positive].secondary_opts:
        return f"there is no option {key}; write {positive}: false"
    return f"there is no option {key}" + nearest_key(key, (*options, *more))


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The end of a sentence that names the known key which is meant; empty if there is none."""
    near = nearest_flag("--" + key.replace("_", "-"), [f"--{one}" for one in known])
    return f"; did you mean {near.removeprefix('--')}?" if near else ""


def _warn_of_open_keys(path: Path, settings: Mapping[str, OptionSetting]) -> None:
    keys = settings.get(KEYS)
    if keys is not None and any(not key.startswith("@") for key in keys.value) and others_can_read(path):
        terminal.say(
            f"warning: {path} has API keys, and every user of this computer may read it: chmod 600 {path}",
            err=True,
        )
