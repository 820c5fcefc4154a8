"""`groups:` of a configuration file: models that are resident together, or never at the same time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vram_llm.cli.config_file import ConfigEntry, ConfigObject, is_true
from vram_llm.cli.configured_command import nearest_key
from vram_llm.errors import BadConfig
from vram_llm.planner.fleet.types import FleetModelSpec

GROUP_KEYS = ("name", "models", "together", "apart")


@dataclass(frozen=True, slots=True)
class FleetGroups:
    """Names of models by group."""

    together: tuple[frozenset[str], ...] = ()
    apart: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    place: str
    models: frozenset[str]
    is_apart: bool


def read_groups(entry: ConfigEntry, models: Sequence[FleetModelSpec]) -> FleetGroups:
    """The groups. Raises BadConfig for a mistake, and for groups that contradict each other."""
    names: dict[str, str] = {}
    groups = [_group(one, models, names) for one in entry.objects()]
    together = _united(group.models for group in groups if not group.is_apart)
    preloaded = {model.name for model in models if model.preload}
    for group in groups:
        if not group.is_apart:
            continue
        if both := next(
            (united & group.models for united in together if len(united & group.models) > 1), None
        ):
            first, second = sorted(both)[:2]
            raise BadConfig(
                f"{group.place}: {first} and {second} are apart here, and together in another group"
            )
        if len(at_start := sorted(preloaded & group.models)) > 1:
            raise BadConfig(
                f"{group.place}: {at_start[0]} and {at_start[1]} are apart here, and both have preload; "
                "leave one preload out"
            )
    return FleetGroups(
        together=tuple(together), apart=tuple(group.models for group in groups if group.is_apart)
    )


def _group(one: ConfigObject, models: Sequence[FleetModelSpec], names: dict[str, str]) -> _Group:
    entries = {entry.key: entry for entry in one.entries}
    for key, entry in entries.items():
        if key not in GROUP_KEYS:
            near = nearest_key(key, GROUP_KEYS) or f"; a group takes {', '.join(GROUP_KEYS)}"
            raise BadConfig(f"{entry.place}: there is no key {key} of a group{near}")
    if "models" not in entries:
        raise BadConfig(f"{one.place}: a group has the names of its models: `models: [chat, coder]`")
    if "name" in entries:
        name = entries["name"].text()
        if name in names:
            raise BadConfig(f"{one.place}: {name} is already the name of the group in {names[name]}")
        names[name] = one.place
    return _Group(
        place=one.place, models=_members(entries["models"], models), is_apart=_is_apart(one, entries)
    )


def _members(entry: ConfigEntry, models: Sequence[FleetModelSpec]) -> frozenset[str]:
    known = [model.name for model in models]
    members = entry.texts()
    for member in members:
        if member not in known:
            aliased = next((model.name for model in models if member in model.aliases), None)
            near = f"; write its name, {aliased}" if aliased else nearest_name(member, known)
            raise BadConfig(f"{entry.place}: there is no model {member} in this file{near}")
    if twice := next((member for member in members if members.count(member) > 1), None):
        raise BadConfig(f"{entry.place}: {twice} is here twice")
    if len(members) < 2:
        raise BadConfig(f"{entry.place}: a group has two models or more")
    return frozenset(members)


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The end of a sentence with the name that may be meant, or with all."""
    return nearest_key(name, known) or f"; there are {', '.join(known)}"


def _is_apart(one: ConfigObject, entries: dict[str, ConfigEntry]) -> bool:
    asked = [key for key in ("together", "apart") if key in entries and is_true(entries[key])]
    if len(asked) != 1:
        both = "both" if asked else "neither"
        raise BadConfig(
            f"{one.place}: a group has `together: true` or `apart: true`, and this one has {both}"
        )
    return asked == ["apart"]


def _united(groups: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """Groups that share a model as one group."""
    united: list[frozenset[str]] = []
    for group in groups:
        sharing = [other for other in united if other & group]
        united = [other for other in united if not other & group]
        united.append(group.union(*sharing))
    return united
