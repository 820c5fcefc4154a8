"""vram-llm keys: the file of API keys that `serve --keys-file` reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vram_llm.server.keys_file import KeyScope

_F = TypeVar("_F", bound=Callable[..., Any])


def _file_option(function: _F) -> _F:
    return click.option(
        "--keys-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="File of the keys.  [default: keys.json in the data folder]",
    )(function)


def _path(given: Path | None) -> Path:
    from vram_llm.machine.json_store import folder

    return given or folder() / "keys.json"


@click.group("keys")
def command() -> None:
    """Make, list and remove API keys. The file has their hashes, not the keys.

    Give it to `vram-llm serve --keys-file FILE`. A server that runs reads it again at SIGHUP.
    """


@command.command("add")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, type=click.Choice([scope.value for scope in KeyScope]),
              default=(KeyScope.INFERENCE.value,), show_default=True, help=(
    "What the key may ask for; admin: everything. Repeat for more."
))  # fmt: skip
@click.option("--for-model", "models", multiple=True, metavar="MODEL", help=(
    "Name of a model that the key may use, as /v1/models lists it. Repeat for more.  [default: all]"
))  # fmt: skip
@_file_option
def add(name: str, scopes: tuple[str, ...], models: tuple[str, ...], keys_file: Path | None) -> None:
    """Make a key with the name NAME, and print it. It is shown this once."""
    from vram_llm.server.keys_file import add_key

    path = _path(keys_file)
    key = add_key(path, name, [KeyScope(scope) for scope in dict.fromkeys(scopes)], models)
    click.echo(key)
    click.echo(
        f"note: this is the only time that the key is shown; its hash is in {path}, for `vram-llm serve "
        f"--keys-file {path}`",
        err=True,
    )


@command.command("list")
@_file_option
def show(keys_file: Path | None) -> None:
    """List the keys: names, scopes and models."""
    from vram_llm.server.keys_file import read_keys

    for name, key in read_keys(_path(keys_file)).items():
        models = "all models" if key.models is None else ", ".join(key.models)
        click.echo(f"{name}: {', '.join(key.scopes)}; {models}")


@command.command("remove")
@click.argument("name")
@_file_option
def remove(name: str, keys_file: Path | None) -> None:
    """Remove the key with the name NAME."""
    from vram_llm.server.keys_file import remove_key

    remove_key(_path(keys_file), name)
