"""API keys from the command line, from files and from the environment."""

from pathlib import Path

import click
from click.core import ParameterSource

from vram_llm.cli import terminal

VARIABLE = "VRAM_LLM_API_KEY"
METAVAR = "KEY|@FILE"
KEYS = "api_keys"  # the parameter of --api-key


def read_keys(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """click's callback of --api-key: its values and the keys of the files among them.

    Warns of a key typed on the command line. Raises BadParameter for an empty key and a file without keys.
    """
    typed = [value for value in values if not value.startswith("@")]
    if not all(value.strip() for value in typed):
        raise click.BadParameter("an empty text is no API key", ctx, param)
    if typed and param.name and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
        terminal.say(
            "warning: `ps` shows everybody on this computer a key on the command line; "
            f"use --api-key @FILE or ${VARIABLE}",
            err=True,
        )
    return tuple(
        key
        for value in values
        for key in (keys_in(value[1:], ctx, param) if value.startswith("@") else (value.strip(),))
    )


def read_key(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The same for an option with one key: the first of a file's, or of a variable with several."""
    if value is None:
        return None
    is_variable = param.name and ctx.get_parameter_source(param.name) is ParameterSource.ENVIRONMENT
    return read_keys(ctx, param, (next(iter(value.split()), "") if is_variable else value,))[0]


def keys_in(path: str, ctx: click.Context, param: click.Parameter | None = None) -> tuple[str, ...]:
    """The keys in a file, one a line; "#" begins a comment.

    Raises BadParameter if there are none: the server would be open to everybody.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise click.BadParameter(f"{path!r} cannot be read: {why}", ctx, param) from None
    keys = tuple(key for line in lines if (key := line.partition("#")[0].strip()))
    if not keys:
        raise click.BadParameter(f"{path} holds no API key; write one a line", ctx, param)
    return keys
