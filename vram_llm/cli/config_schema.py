"""The JSON schema of a configuration file, for editors, from the click options that read the file."""

from collections.abc import Iterable, Mapping
from typing import Any

import click

from vram_llm.cli.configured_command import GROUPS, MODELS, WORKERS, options_by_key
from vram_llm.cli.fleet_entry import model_options

CONFIG_FILE = "config-file"
"""The name of the schema."""
_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 2, "uniqueItems": True}
_SCALAR = {"type": ["string", "number", "boolean"]}


def config_file_schema() -> dict[str, Any]:
    """The schema. It takes every file that is read, and refuses unknown keys and values of the wrong kind."""
    from vram_llm.cli import serve

    top = _properties(options_by_key(serve.command))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vram-llm configuration",
        "description": "Options of `vram-llm serve`: --config FILE, or config.yaml in the user's folder.",
        "type": "object",
        "properties": top
        | {
            MODELS: {"description": "Several models in one server.", "type": "array", "minItems": 1,
                     "items": {"$ref": "#/$defs/model"}},
            GROUPS: {"description": "Models that are resident together, or never at the same time.",
                     "type": "array", "minItems": 1, "items": {"$ref": "#/$defs/group"}},
            WORKERS: {"description": "RPC workers.", "type": "array", "minItems": 1,
                      "items": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/worker"}]}},
        },
        "additionalProperties": False,
        "$defs": {
            "model": _object(_properties(model_options()), required=["source"]),
            "group": _object({"name": {"type": "string"}, "models": _NAMES, "together": {"type": "boolean"},
                              "apart": {"type": "boolean"}}, required=["models"]),
            "worker": _object({"address": {"type": "string"}, "name": {"type": "string"},
                               "ssh": {"type": "string"}, "start": {"type": "boolean"}}),
        },
    }  # fmt: skip


def _object(properties: Mapping[str, Any], required: Iterable[str] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _properties(options: Mapping[str, click.Option]) -> dict[str, Any]:
    """A schema for each key, also with `_` for `-`."""
    found = {key: _of_option(option) for key, option in options.items()}
    return found | {key.replace("-", "_"): schema for key, schema in found.items()}


def _of_option(option: click.Option) -> dict[str, Any]:
    about = {"description": " ".join((option.help or "").split())}
    one = _of_value(option)
    if option.multiple:
        return about | {"anyOf": [one, {"type": "array", "items": one}]}
    return about | one


def _of_value(option: click.Option) -> dict[str, Any]:
    """A value of the type that YAML reads: editors read 8192 as a number, and `32k` as text."""
    kind = option.type
    if option.is_flag:
        return {"type": "boolean"}
    match kind:
        case click.IntRange() | click.FloatRange():
            return _range(kind)
        case click.Choice() if type(kind) is click.Choice:
            choices = [str(choice) for choice in kind.choices]
            switch = [value for value, text in ((True, "on"), (False, "off")) if text in choices]
            return {"enum": [*choices, *switch]}  # YAML 1.1, which editors may have, reads `on` as true
    if kind.name == "json":
        return {"anyOf": [{"type": "object"}, {"type": "string"}]}
    return {"type": "integer"} if kind is click.INT else dict(_SCALAR)


def _range(kind: click.IntRange | click.FloatRange) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer" if isinstance(kind, click.IntRange) else "number"}
    if kind.min is not None:
        schema["exclusiveMinimum" if kind.min_open else "minimum"] = kind.min
    if kind.max is not None:
        schema["exclusiveMaximum" if kind.max_open else "maximum"] = kind.max
    return schema
