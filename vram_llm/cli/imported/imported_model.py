"""A model of another program's configuration: a command line of llama-server, as keys of an entry."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import click

from vram_llm.cli.configured_command import key_of
from vram_llm.cli.fleet_entry import model_options
from vram_llm.cli.llama_server_line.devices import LlamaDevices
from vram_llm.cli.llama_server_line.read_line import read_line
from vram_llm.cli.llama_server_line.several_models import without_placement
from vram_llm.cli.llama_server_line.translation import Translation, translated
from vram_llm.errors import BadConfig

_OF_SERVER = frozenset({"--host", "--port", "--insecure", "--cors-origin"})  # made by any line
_SECRETS = frozenset({"--api-key"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """An entry of `models:`. `values` are texts, lists of them, or switches, by key.

    `remarks` say what of the other configuration is not in the entry.
    """

    name: str
    source: str
    aliases: tuple[str, ...] = ()
    values: dict[str, str | bool | list[str]]
    remarks: tuple[str, ...] = ()


def imported_model(name: str, words: Sequence[str], *, source: str | None = None) -> ImportedModel:
    """The model that llama-server with `words` would serve as `name`; `source` if they name none.

    Raises BadConfig.
    """
    try:
        found = translated(without_placement(read_line(words, {})), lambda: LlamaDevices((), {}))
    except click.UsageError as error:
        raise BadConfig(f"{name}: {error.message}") from None
    model = _with_arguments(ImportedModel(name=name, source=source or "", values={}), found)
    if not model.source:
        raise BadConfig(f"{name}: its line names no model")
    return replace(model, remarks=(*found.notes(), *model.remarks))


def _with_arguments(model: ImportedModel, found: Translation) -> ImportedModel:
    """The entry with the arguments of `serve` that a model may have for itself."""
    own = {option.name for option in model_options().values()}
    values = dict(model.values)
    names: list[str] = []
    source, remarks = model.source, []
    for option, flag, value in serve_options(found.arguments()):
        match flag:
            case "--model":
                source = str(value)
            case "--served-model-name" | "--alias":
                names.append(str(value))
            case _ if option.name in own:
                _add(values, option, flag, value)
            case _ if flag not in _OF_SERVER:
                shown = "..." if flag in _SECRETS else value
                remarks.append(f"not taken: {flag} {shown} holds for the whole server")
    remarks += [f"not taken: set {name} in the server's environment" for name in found.environment]
    aliases = tuple(name for name in names if name != model.name)
    return replace(model, source=source, aliases=aliases, values=values, remarks=tuple(remarks))


def serve_options(arguments: Sequence[str]) -> Iterator[tuple[click.Option, str, str | bool]]:
    """The options of `serve` in a command line, each with its flag and its value."""
    from vram_llm.cli import serve

    by_flag = {
        flag: option
        for option in serve.command.params
        if isinstance(option, click.Option)
        for flag in (*option.opts, *option.secondary_opts)
    }
    left = iter(arguments)
    for flag in left:
        option = by_flag[flag]
        yield option, flag, flag in option.opts if option.is_flag else next(left)


def _add(
    values: dict[str, str | bool | list[str]], option: click.Option, flag: str, value: str | bool
) -> None:
    key = key_of(option)
    if option.multiple and not option.is_flag:
        listed = values.setdefault(key, [])
        assert isinstance(listed, list)
        listed.append(str(value))
    else:
        values[key] = value
