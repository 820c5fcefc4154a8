"""One model of a fleet: an entry of `models:` or an argument, read by the click options of `serve`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import click

from vram_llm.cli.config_file import ConfigEntry, ConfigObject
from vram_llm.cli.configured_command import (
    MODELS,
    ConfigLayer,
    given_names,
    layers_of,
    merged,
    options_by_key,
    settings_of_entries,
    unknown_key,
)
from vram_llm.cli.fleet_options import ENTRY, ENTRY_OPTIONS, RESIDENCY, ResidencyOptions, residency_options
from vram_llm.cli.machine_options import MACHINE_OPTIONS
from vram_llm.cli.next_command import given_words
from vram_llm.cli.plan_options import PlanOptions, plan_options
from vram_llm.cli.server_options import MODEL_FIELDS, MODEL_PARAMETERS, server_options
from vram_llm.cli.settings import OptionSetting, keep_settings
from vram_llm.cli.short_flags import ShortFlagsCommand
from vram_llm.cli.usage_errors import reason
from vram_llm.cli.workload_options import WORKLOAD_OPTIONS
from vram_llm.errors import BadConfig, ModelNotFound
from vram_llm.planner.fleet.types import FleetModelSpec
from vram_llm.server.config import ServerConfig

_OF_ENTRY = frozenset({*ENTRY, "aliases"})
_SHARED = frozenset(RESIDENCY) | MODEL_PARAMETERS | {option.name for option in WORKLOAD_OPTIONS}
_OTHER_NAMES = {"served-model-name": "name", "model": "source"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEntry:
    """A model as it is asked for: an object of the file's list `layer_of`, or an argument."""

    place: str
    layer_of: ConfigEntry | None = None
    object: ConfigObject | None = None
    name: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadModel:
    """A model that was read, with the settings of its server, and its place."""

    spec: FleetModelSpec
    server: ServerConfig
    place: str
    device_place: str | None


class _EntryCommand(ShortFlagsCommand):
    """The options of one model. Its settings are in `ctx.obj`, because nothing is read here."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        keep_settings(ctx, ctx.obj)
        return super().parse_args(ctx, args)


@click.command(cls=_EntryCommand)
@residency_options
@server_options
@plan_options
def _entry(**values: Any) -> dict[str, Any]:
    return values


_entry.params += [option for add in ENTRY_OPTIONS for option in add(lambda: None).__click_params__]  # type: ignore[attr-defined]  # click keeps them there


def model_options() -> Mapping[str, click.Option]:
    """The keys of an entry of `models:`, by each of their names."""
    names = _SHARED | _OF_ENTRY
    found = {key: option for key, option in options_by_key(_entry).items() if option.name in names}
    return {**found, "aliases": found["alias"]}


def entry_settings(entry: FleetEntry) -> dict[str, OptionSetting]:
    """The settings of the entry alone, by the name of the parameter. Raises BadConfig."""
    if entry.object is None:
        return {}
    options = model_options()
    if entry.object.text is not None:
        raise BadConfig(f"{entry.place}: {_no_object(entry.object.text[:60], options)}")
    return settings_of_entries(
        entry.object.entries, options, lambda key: _unknown(key, options, options_by_key(_entry))
    )


def _no_object(text: str, options: Mapping[str, click.Option]) -> str:
    """A sentence on an entry that is a text."""
    key, colon, value = text.partition(":")
    if colon and key in options:
        return f"a space is missing after the colon: `- {key}: {value}`"
    return f"an entry of {MODELS} has keys of its own: `- source: {text}`"


def effective_settings(ctx: click.Context, entry: FleetEntry) -> dict[str, OptionSetting]:
    """The settings of the entry, and those of all places that hold for every model."""
    own = entry_settings(entry)
    layers = []
    for layer in layers_of(ctx):
        if layer.lists.get(MODELS) is entry.layer_of and entry.layer_of is not None:
            layers.append(ConfigLayer(own))
        shared = {name: setting for name, setting in layer.settings.items() if name in _SHARED}
        layers.append(ConfigLayer(shared))
    return dict(merged(layers, given_names(ctx) & _SHARED).settings)


def entry_context(ctx: click.Context, settings: Mapping[str, OptionSetting]) -> click.Context:
    """The context of a model's options: by the command line of `serve`, whose context is `ctx`, and settings.

    Raises UsageError.
    """
    words = list(given_words(ctx, _SHARED))
    return _entry.make_context(ctx.info_name or "vram-llm serve", words, obj=settings)


def read_model(ctx: click.Context, entry: FleetEntry, server: ServerConfig) -> ReadModel:
    """The model of an entry. `ctx` is the context of `serve`, `server` its settings. Raises BadConfig."""
    settings = effective_settings(ctx, entry)
    try:
        with entry_context(ctx, settings) as own_ctx:
            values = _entry.invoke(own_ctx)
    except click.UsageError as error:
        at_option = isinstance(error, click.BadParameter) and isinstance(error.param, click.Option)
        raise BadConfig(reason(error) if at_option else f"{entry.place}: {reason(error)}") from None
    return _model(entry, settings, server, **values)


def _model(
    entry: FleetEntry,
    settings: Mapping[str, OptionSetting],
    base: ServerConfig,
    *,
    residency: ResidencyOptions,
    server: ServerConfig,
    options: PlanOptions,
    **own: Any,
) -> ReadModel:
    source = entry.source or own["source"]
    if source is None:
        raise BadConfig(
            f"{entry.place}: this model has no source: a file, hf:ORG/REPO:Q4_K_M, or a name that "
            "`vram-llm models` lists"
        )
    _check_name(settings, own["name"], source)
    name = entry.name or own["name"] or _name_of(source)
    _check(settings, residency, own["pin"])
    devices = (own["pin"],) if own["pin"] is not None else residency.devices
    spec = FleetModelSpec(
        name=name,
        source=source,
        aliases=server.aliases,
        workload=options.workload,
        devices=devices or None,
        priority=own["priority"],
        preload=residency.preload,
        ttl_s=residency.ttl_s,
        min_residency_s=residency.min_residency_s,
        replicas=residency.replicas,
    )
    fields = {field: getattr(server, field) for field in MODEL_FIELDS}
    at = settings.get("pin") or settings.get("devices")
    return ReadModel(
        spec=spec,
        server=replace(base, model_name=name, aliases=server.aliases, **fields),
        place=entry.place,
        device_place=None if at is None else str(at),
    )


def _name_of(source: str) -> str:
    """The name that `serve` gives a model."""
    from vram_llm.workflows.model_names import resolve, served_name

    try:
        return served_name(str(resolve(source)))
    except ModelNotFound:
        return served_name(source)


def _check_name(settings: Mapping[str, OptionSetting], name: str | None, source: str) -> None:
    """Raises BadConfig for a text that is no name or source."""
    for key, text in (("name", name), ("source", source)):
        if text is not None and (not text.strip() or text != text.strip() or not text.isprintable()):
            raise BadConfig(f"{settings.get(key, key)}: {text!r} is no {key} of a model")


def _check(settings: Mapping[str, OptionSetting], residency: ResidencyOptions, pin: str | None) -> None:
    """Raises BadConfig for devices, a pin and replicas that contradict each other."""

    def fail(name: str, problem: str) -> None:
        place = settings.get(name, name)
        raise BadConfig(f"{place}: {problem}")

    devices, copies = residency.devices, residency.replicas
    if "devices" in settings and not devices:
        fail("devices", "this is an empty list; name a device, or remove the line")
    if twice := next((device for device in devices if devices.count(device) > 1), None):
        fail("devices", f"{twice} is here twice")
    if pin is not None and devices and pin not in devices:
        fail("pin", f"{pin} is not among the devices that the model may use: {', '.join(devices)}")
    if pin is not None and copies != 1:
        how_many = "auto" if copies is None else copies
        fail("replicas", f"{how_many} copies need devices of their own, and pin names one, {pin}")
    if devices and (copies or 1) > len(devices):
        fail("replicas", f"{copies} copies need devices of their own, and devices names {len(devices)}")


def _unknown(key: str, options: Mapping[str, click.Option], of_serve: Mapping[str, click.Option]) -> str:
    flag = key.replace("_", "-")
    if flag in _OTHER_NAMES:
        return f"there is no option {key} of a model; write {_OTHER_NAMES[flag]}"
    if flag in {option.flag.removeprefix("--") for option in MACHINE_OPTIONS}:
        return (
            f"{key} describes the machine: write it at the top level; devices and pin choose among its cards"
        )
    if flag in of_serve:
        return f"{key} is an option of the whole server: write it at the top level"
    sentence = unknown_key(key, options)
    if ";" in sentence:
        return sentence
    own = ", ".join(sorted(_OF_ENTRY | {"devices", "preload", "ttl", "min-residency", "replicas"}))
    return f"{sentence}; a model takes {own}, and the options of `serve` about a model"
