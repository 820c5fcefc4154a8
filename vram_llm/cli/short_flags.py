"""Short flags of several letters, like llama-server's: "-ngl" and "-md" are read whole."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.parser import _OptionParser, _ParsingState


_ARGUMENTS = "vram_llm.arguments"


class ShortFlagsCommand(click.Command):
    """A command that reads a flag whole: "-mg" is unknown to it, and never "-m" with the value "g".

    It keeps its command line as it was typed, for `given_options`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def make_parser(self, ctx: click.Context) -> "_OptionParser":
        """click's parser, which matches short flags as it matches long ones."""
        parser = super().make_parser(ctx)
        parser._long_opt.update(parser._short_opt)
        parser._match_short_opt = partial(_refuse, parser)  # type: ignore[method-assign]  # click has no setting for it
        return parser


def typed_arguments(ctx: click.Context) -> tuple[str, ...]:
    """The command line of the context's command, as it was typed."""
    found: tuple[str, ...] = ctx.meta[_ARGUMENTS]
    return found


def given_options(ctx: click.Context) -> list[tuple[click.Option, Any]]:
    """The options on the command line with their values as typed, in the order typed.

    An option that may be repeated is listed each time, another one only where it stands last.
    """
    values, _, order = ctx.command.make_parser(ctx).parse_args(list(typed_arguments(ctx)))
    listed: list[tuple[click.Option, Any]] = []
    for param in (param for param in reversed(order) if isinstance(param, click.Option)):
        n_listed = sum(other is param for other, _ in listed)
        if param.multiple:
            listed.append((param, values[param.name][-1 - n_listed]))
        elif not n_listed:
            listed.append((param, values[param.name]))
    return listed[::-1]


def given_parameters(command: click.Command, ctx: click.Context, args: list[str]) -> dict[str, Any]:
    """The options and arguments of a command line by name, unconverted. Raises UsageError."""
    values, _, order = command.make_parser(ctx).parse_args(list(args))
    given = {param.name for param in order if isinstance(param, click.Option)}
    return {
        name: value
        for name, value in values.items()
        if name in given or (isinstance(value, str | tuple) and value)  # a missing argument is no text
    }


def _refuse(parser: "_OptionParser", flag: str, state: "_ParsingState") -> None:
    """Keep an unknown flag as an argument for `serve`. Raises NoSuchOption if the command does not do so."""
    if not parser.ignore_unknown_options:
        raise click.NoSuchOption(flag, possibilities=parser._long_opt, ctx=parser.ctx)
    state.largs.append(flag)
