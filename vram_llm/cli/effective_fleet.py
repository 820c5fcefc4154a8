"""The models of a fleet as `vram-llm config` shows them: the options of each, with their places."""

from collections.abc import Iterator

import click

from vram_llm.cli.config import (
    EffectiveList,
    EffectiveModel,
    EffectiveOption,
    OptionSource,
    effective_options,
)
from vram_llm.cli.configured_command import GROUPS, WORKERS, given_names, layers_of, merged
from vram_llm.cli.fleet_config import configured_fleet, fleet_entries
from vram_llm.cli.fleet_entry import (
    FleetEntry,
    effective_settings,
    entry_context,
    entry_settings,
    model_options,
)
from vram_llm.planner.fleet.types import FleetModelSpec
from vram_llm.server.config import ServerConfig


def effective_models(ctx: click.Context) -> tuple[EffectiveModel, ...]:
    """The models; empty without a fleet. `ctx` is the context of `serve`. Raises BadConfig and UsageError."""
    fleet = configured_fleet(ctx, ServerConfig())
    if fleet is None:
        return ()
    entries = fleet_entries(ctx)
    return tuple(
        EffectiveModel(options=tuple(_options(ctx, entry, spec)))
        for entry, spec in zip(entries, fleet.spec.models, strict=True)
    )


def effective_lists(ctx: click.Context) -> tuple[EffectiveList, ...]:
    """Groups and workers of the files. Raises BadConfig."""
    lists = merged(layers_of(ctx), given_names(ctx)).lists
    return tuple(
        EffectiveList(key=key, value=lists[key].data(), place=lists[key].place)
        for key in (GROUPS, WORKERS)
        if key in lists
    )


def _options(ctx: click.Context, entry: FleetEntry, spec: FleetModelSpec) -> Iterator[EffectiveOption]:
    """The name, and the options that the entry sets: flags and variables may give them other values."""
    own = entry_settings(entry)
    with entry_context(ctx, effective_settings(ctx, entry)) as own_ctx:
        listed = tuple(
            effective_options(own_ctx, (option for option in model_options().values() if option.name in own))
        )
    by_key = {option.key: option for option in listed}
    argument = OptionSource.COMMAND_LINE if entry.object is None else OptionSource.DEFAULT
    for key, value in (("name", spec.name), ("source", spec.source)):
        place = entry.place if entry.object is None else None
        unset = EffectiveOption(key=key, value=value, source=argument, place=place)
        yield by_key.get(key, unset)
    yield from (option for key, option in by_key.items() if key not in ("name", "source"))
