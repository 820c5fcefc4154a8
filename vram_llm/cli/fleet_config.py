"""The models that `serve` is asked for: `models:`, `groups:` and `workers:` of a file, or several arguments.

A model's keys are the flags of `serve`. They are converted and checked by the same click options.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from vram_llm.cli.configured_command import (
    GROUPS,
    MODELS,
    WORKERS,
    ConfiguredCommand,
    given_names,
    layers_of,
    merged,
)
from vram_llm.cli.fleet_entry import FleetEntry, ReadModel, read_model
from vram_llm.cli.fleet_groups import FleetGroups, read_groups
from vram_llm.cli.fleet_options import given_flags, residency_options
from vram_llm.cli.fleet_workers import FleetWorker, read_workers
from vram_llm.cli.plan_options import PlanOptions, plan_options
from vram_llm.cli.server_options import server_options
from vram_llm.cli.settings import place_of
from vram_llm.cli.usage_errors import reason
from vram_llm.errors import BadConfig, ModelNotFound
from vram_llm.machine.device_choice import devices_called, known_devices
from vram_llm.machine.types import Machine
from vram_llm.planner.fleet.types import FleetModelSpec, FleetSpec
from vram_llm.server.config import ServerConfig
from vram_llm.workflows.model_names import DEMO

_NAMED = re.compile(r"([A-Za-z0-9][\w.:@-]*)=(.+)", re.DOTALL)
_OF_ONE_MODEL = ("aliases", "model_name")
INSTALLED = "installed"
"""The source of an entry that stands for the models on this disk: see fleet_installed.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredFleet:
    """The models to serve. `servers` and `places` are by the model's name.

    `servers` have the settings of the whole server too. A place is FILE:LINE of a model's entry, or of its
    `devices`, or the argument.
    """

    spec: FleetSpec
    servers: Mapping[str, ServerConfig]
    workers: tuple[FleetWorker, ...]
    places: Mapping[str, str]
    device_places: Mapping[str, str]

    def check_sources(self) -> None:
        """Raises BadConfig for a model that is not here and is not on a hub or server."""
        from vram_llm.workflows.model_names import resolve

        for model in self.spec.models:
            if model.source == INSTALLED:
                continue
            try:
                found = resolve(model.source)
            except ModelNotFound as error:
                raise BadConfig(f"{self._place_before(model.name, model.source)}{error}") from None
            if isinstance(found, Path) and not found.is_file():
                raise BadConfig(
                    f"{self._place_before(model.name, model.source)}there is no file {model.source}"
                )

    def _place_before(self, name: str, source: str) -> str:
        """The beginning of a sentence about a source: its place, unless that is an argument, the source."""
        place = self.places[name]
        return "" if place == source else f"{place}: "

    def on(self, machine: Machine) -> FleetSpec:
        """The spec with ids of the machine's devices. Raises BadConfig for a device that is not there."""
        models = (
            model if model.devices is None else replace(model, devices=self._ids(model, machine))
            for model in self.spec.models
        )
        return replace(self.spec, models=tuple(models))

    def _ids(self, model: FleetModelSpec, machine: Machine) -> tuple[str, ...]:
        ids: dict[str, None] = {}
        for written in model.devices or ():
            found = devices_called(written, machine.devices)
            if not found:
                place = self.device_places.get(model.name, self.places[model.name])
                raise BadConfig(f"{place}: there is no device {written}; {known_devices(machine.devices)}")
            ids |= dict.fromkeys(device.id for device in found)
        copies = model.replicas or 1
        if copies > len(ids):
            raise BadConfig(
                f"{self.places[model.name]}: {model.name} has {copies} replicas and {len(ids)} devices; each "
                "replica needs a device of its own"
            )
        return tuple(ids)


def configured_fleet(ctx: click.Context, server: ServerConfig) -> ConfiguredFleet | None:
    """The fleet that a command line and its files ask for; None: one model, or none, as without fleets.

    `ctx` is the context of `serve`, whose arguments are MODEL or NAME=MODEL; `server` has the settings for
    all. Raises BadConfig and UsageError.
    """
    _refuse_configurations(ctx.params["model"])
    lists = merged(layers_of(ctx), given_names(ctx)).lists
    entries = fleet_entries(ctx)
    if not entries:
        return None
    _refuse_options_of_one_model(ctx)
    read = [read_model(ctx, entry, server) for entry in entries]
    _check_names(read)
    groups = FleetGroups()
    if GROUPS in lists:
        groups = read_groups(lists[GROUPS], [model.spec for model in read])
    return ConfiguredFleet(
        spec=FleetSpec(
            models=tuple(model.spec for model in read), together=groups.together, apart=groups.apart
        ),
        servers={model.spec.name: model.server for model in read},
        workers=read_workers(lists[WORKERS]) if WORKERS in lists else (),
        places={model.spec.name: model.place for model in read},
        device_places={model.spec.name: model.device_place for model in read if model.device_place},
    )


def fleet_entries(ctx: click.Context) -> tuple[FleetEntry, ...]:
    """The models of the arguments, or else of a file; empty if one model is served as without fleets."""
    listed = merged(layers_of(ctx), given_names(ctx)).lists.get(MODELS)
    if listed is not None:
        return tuple(FleetEntry(place=one.place, layer_of=listed, object=one) for one in listed.objects())
    models, option, flags = ctx.params["model"], ctx.params.get("model_option"), given_flags(ctx)
    if len(models) > 1 and option is not None:
        raise click.UsageError("name the models as arguments: leave --model out")
    named = [_named(argument) for argument in models or ((option,) if option is not None else ())]
    if len(named) < 2 and not any(name is not None for name, _ in named) and not flags:
        return ()
    if ctx.params.get("plan_file") is not None:
        wrong = f"{flags[0]} is for models that are planned" if flags else "give one model"
        raise click.UsageError(f"--plan is the plan of one model: {wrong}")
    return tuple(
        FleetEntry(place=source, name=name, source=source) for name, source in named or [(None, DEMO)]
    )


def _named(argument: str) -> tuple[str | None, str]:
    """(name, model) of "NAME=MODEL"; the name is None for "MODEL", and for a file with such a name."""
    match = _NAMED.fullmatch(argument)
    if match is None or Path(argument).exists():
        return None, argument
    return match[1], match[2]


def _refuse_configurations(models: Sequence[str]) -> None:
    """Raises UsageError for a configuration file in the place of a model."""
    for model in models:
        if Path(model).suffix.lower() in (".yaml", ".yml") and Path(model).is_file():
            raise click.UsageError(f"{model} is no model; if it is a configuration, write --config {model}")


def _refuse_options_of_one_model(ctx: click.Context) -> None:
    """Raises UsageError for a name that would be that of all models."""
    settings = merged(layers_of(ctx), given_names(ctx)).settings
    for option in ctx.command.params:
        is_set = option.name in settings or option.name in given_names(ctx)
        if isinstance(option, click.Option) and option.name in _OF_ONE_MODEL and is_set:
            raise BadConfig(
                f"{place_of(ctx, option)}: this names one model, and several are served: write NAME=MODEL, "
                f"or name and aliases in the entry of {MODELS}"
            )


def _check_names(models: Sequence[ReadModel]) -> None:
    """Raises BadConfig if a name or alias stands for two models."""
    taken: dict[str, ReadModel] = {}
    for model in models:
        for name in (model.spec.name, *model.spec.aliases):
            if name in taken:
                other = taken[name]
                whose = "this model" if other is model else f"the model in {other.place}"
                raise BadConfig(f"{model.place}: {name} is already a name of {whose}; give it another name")
            taken[name] = model


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The options of a `serve` that is not run. `fleet` is None if it would serve one model."""

    fleet: ConfiguredFleet | None
    server: ServerConfig
    options: PlanOptions


def read_serve(arguments: Sequence[str]) -> ServeOptions:
    """The options by a command line of `serve`, from the variables and files as they are now.

    Raises BadConfig, with one sentence for any mistake, and the errors of files that options name.
    """
    from vram_llm.cli import serve

    command = copy.copy(_read)
    command.params = serve.command.params
    try:
        with command.make_context("vram-llm serve", list(arguments)) as ctx:
            found: ServeOptions = command.invoke(ctx)
    except click.UsageError as error:
        raise BadConfig(reason(error)) from None
    return found


@click.command(cls=ConfiguredCommand)
@residency_options
@server_options
@plan_options
def _read(
    server: ServerConfig,
    options: PlanOptions,
    **_others: object,
) -> ServeOptions:
    fleet = configured_fleet(click.get_current_context(), server)
    return ServeOptions(fleet=fleet, server=server, options=options)
