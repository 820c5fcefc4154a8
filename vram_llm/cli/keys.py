"""vram-llm keys: the file of API keys that `serve --keys-file` reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vram_llm.cli import terminal
from vram_llm.server.keys_file import KeyLimits, KeyScope

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
    """Make, list, change and remove API keys. The file has their hashes, not the keys.

    Give it to `vram-llm serve --keys-file FILE`. A server that runs reads it again at SIGHUP.
    """


def _count(name: str, text: str) -> Callable[[_F], _F]:
    return click.option(
        f"--{name}", type=click.IntRange(0), metavar="N", help=f"{text}; 0: no limit.  [default: no limit]"
    )


def _limit_options(function: _F) -> _F:
    """Add the options of limits; the command gets those given as one argument `limits`."""

    def collect(**options: Any) -> Any:
        given = {name: options.pop(name) for name in KeyLimits.__struct_fields__}
        limits = {name: value or None for name, value in given.items() if value is not None}
        return function(limits=limits, **options)

    collect.__doc__ = function.__doc__
    collect.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]  # click's own way to stack decorators
    for option in reversed(_LIMITS):
        collect = option(collect)
    return collect  # type: ignore[return-value]  # it takes the options in place of `limits`


_LIMITS: tuple[Callable[..., Any], ...] = (
    click.option("--weight", type=click.FloatRange(0, 1000, min_open=True), metavar="W", help=(
        "Share of a busy engine, compared with the other keys' weights.  [default: 1]"
    )),
    _count("max-requests", "The most requests in flight"),
    _count("max-sequences", "The most answers in flight; a request with `n` has as many"),
    _count("requests-per-minute", "The most requests a minute"),
    _count("tokens-per-minute", "The most computed tokens a minute, of prompts and answers"),
)  # fmt: skip


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
@_limit_options
def add(
    name: str,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    keys_file: Path | None,
    limits: dict[str, Any],
) -> None:
    """Make a key with the name NAME, and print it. It is shown this once."""
    from vram_llm.server.keys_file import add_key

    path = _path(keys_file)
    key = add_key(
        path, name, [KeyScope(scope) for scope in dict.fromkeys(scopes)], models, KeyLimits(**limits)
    )
    terminal.say(key)
    terminal.say(
        f"note: this is the only time that the key is shown; its hash is in {path}, for `vram-llm serve "
        f"--keys-file {path}`",
        err=True,
    )


@command.command("list")
@_file_option
def show(keys_file: Path | None) -> None:
    """List the keys: names, scopes, models and limits."""
    from vram_llm.server.keys_file import read_keys

    for name, key in read_keys(_path(keys_file)).items():
        models = "all models" if key.models is None else ", ".join(key.models)
        parts = [", ".join(key.scopes), models, _in_words(key.limits)]
        terminal.say(f"{name}: {'; '.join(part for part in parts if part)}")


def _in_words(limits: KeyLimits) -> str:
    """The limits that are not the defaults."""
    words = [f"weight {limits.weight:g}"] if limits.weight != KeyLimits().weight else []
    counts = {
        "requests in flight": limits.max_requests,
        "answers in flight": limits.max_sequences,
        "requests a minute": limits.requests_per_minute,
        "tokens a minute": limits.tokens_per_minute,
    }
    return ", ".join([*words, *(f"{most:,} {what}" for what, most in counts.items() if most is not None)])


@command.command("change")
@click.argument("name")
@_file_option
@_limit_options
def change(name: str, keys_file: Path | None, limits: dict[str, Any]) -> None:
    """Change limits of the key with the name NAME; those that are not given stay."""
    from vram_llm.server.keys_file import change_key

    change_key(_path(keys_file), name, limits)


@command.command("remove")
@click.argument("name")
@_file_option
def remove(name: str, keys_file: Path | None) -> None:
    """Remove the key with the name NAME."""
    from vram_llm.server.keys_file import remove_key

    remove_key(_path(keys_file), name)
