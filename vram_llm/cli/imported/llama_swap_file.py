"""llama-swap's config.yaml: models with commands of llama-server, groups, macros.

Keys and meanings: config-schema.json and docs/config.example.yaml of llama-swap.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vram_llm.cli.config_file import ConfigEntry, read_config
from vram_llm.cli.imported.imported_fleet import ImportedFleet
from vram_llm.cli.imported.imported_model import ImportedModel, imported_model
from vram_llm.errors import BadConfig

_TAKEN = ("models", "groups", "macros", "hooks", "globalTTL")
_OF_MODEL = ("cmd", "aliases", "ttl", "macros", "name", "description", "proxy", "useModelName")
_PROGRAM = re.compile(r"(?:.*[/\\])?llama-server(?:\.exe)?|.*/llama\.cpp:server.*")
_MACRO = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")
_DEPTH = 10  # macros in macros


def read_llama_swap(path: Path) -> ImportedFleet:
    """The models and groups of a config.yaml. Raises BadConfig."""
    file = {entry.key: entry for entry in read_config(path)}
    models = _object(file, "models")
    macros = {name: str(value) for name, value in _object(file, "macros").items()}
    remarks = [f"not taken: {key}" for key in file if key not in (*_TAKEN, "matrix")]
    if "matrix" in file:
        remarks.append("not taken: matrix; the memory decides which models are loaded together")
    preload = _preloaded(_object(file, "hooks"))
    usual_ttl = _object_value(file, "globalTTL")
    found = []
    for name, value in models.items():
        if not isinstance(value, Mapping):
            raise BadConfig(f"{path}: models: {name} has no keys of its own")
        try:
            model = _model(name, {"ttl": usual_ttl, **value}, macros, is_preloaded=name in preload)
        except BadConfig as error:
            remarks.append(f"left out: {error}")
            continue
        found.append(model)
    names = {model.name for model in found}
    apart = tuple(_apart(_object(file, "groups"), names, remarks))
    return ImportedFleet(models=tuple(found), apart=apart, remarks=tuple(remarks))


def _object(file: Mapping[str, ConfigEntry], key: str) -> Mapping[str, Any]:
    value = _object_value(file, key)
    return value if isinstance(value, Mapping) else {}


def _object_value(file: Mapping[str, ConfigEntry], key: str) -> Any:
    return file[key].data() if key in file else None


def _preloaded(hooks: Mapping[str, Any]) -> list[str]:
    at_start = hooks.get("on_startup")
    listed = at_start.get("preload") if isinstance(at_start, Mapping) else None
    return [str(name) for name in listed] if isinstance(listed, list) else []


def _model(
    name: str, value: Mapping[str, Any], macros: Mapping[str, str], *, is_preloaded: bool
) -> ImportedModel:
    """An entry. Raises BadConfig if its command is not llama-server's."""
    own = value.get("macros")
    known = {**macros, **(own if isinstance(own, Mapping) else {}), "MODEL_ID": name}
    try:
        words = shlex.split(_without_comments(_expanded(str(value.get("cmd", "")), known)))
    except ValueError as error:
        raise BadConfig(f"{name}: its command cannot be read: {error}") from None
    begin = next((place for place, word in enumerate(words) if _PROGRAM.fullmatch(word)), None)
    if begin is None:
        raise BadConfig(f"{name}: its command is not llama-server's: {' '.join(words[:3])} ...")
    model = imported_model(name, list(_without_port(words[begin + 1 :])))
    values = dict(model.values)
    if (ttl := value.get("ttl")) and float(ttl) > 0:
        values["ttl"] = f"{ttl}s"
    if is_preloaded:
        values["preload"] = True
    aliases = value.get("aliases")
    listed = [str(alias) for alias in aliases] if isinstance(aliases, list) else []
    remarks = [f"not taken: {key}: {_short(one)}" for key, one in value.items() if key not in _OF_MODEL]
    if begin:
        remarks.append(f"not taken: {' '.join(words[:begin])}")
    return ImportedModel(
        name=name,
        source=model.source,
        aliases=tuple(dict.fromkeys((*model.aliases, *listed))),
        values=values,
        remarks=(*remarks, *model.remarks),
    )


def _without_port(words: list[str]) -> Iterator[str]:
    """The words without --port ${PORT}, by which llama-swap gives each model a port."""
    left = iter(words)
    for word in left:
        if word == "--port":
            next(left, None)
        else:
            yield word


def _expanded(text: str, macros: Mapping[str, object]) -> str:
    """The text with its macros replaced; ${PORT} and unknown ones stay."""
    for _ in range(_DEPTH):
        replaced = _MACRO.sub(lambda found: str(macros.get(found[1], found[0])), text)
        if replaced == text:
            break
        text = replaced
    return text


def _without_comments(command: str) -> str:
    lines = (line for line in command.splitlines() if not line.lstrip().startswith("#"))
    return " ".join(line.rstrip().removesuffix("\\") for line in lines)


def _apart(
    groups: Mapping[str, Any], names: set[str], remarks: list[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The groups that swap: one of their models runs at a time, llama-swap's default."""
    for name, group in groups.items():
        listed = group.get("members") if isinstance(group, Mapping) else None
        members = tuple(str(one) for one in listed if str(one) in names) if isinstance(listed, list) else ()
        if len(members) < 2:
            continue
        if group.get("swap", True):
            yield name, members
        else:
            remarks.append(
                f"not taken: the group {name}; the memory decides which models are loaded together"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
