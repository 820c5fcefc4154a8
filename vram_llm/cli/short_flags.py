"""Short flags of several letters, like llama-server's: "-ngl" and "-md" are read whole."""

from functools import partial
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.parser import _OptionParser, _ParsingState


class ShortFlagsCommand(click.Command):
    """A command that reads a flag whole: "-mg" is unknown to it, and never "-m" with the value "g"."""

    def make_parser(self, ctx: click.Context) -> "_OptionParser":
        """click's parser, which matches short flags as it matches long ones."""
        parser = super().make_parser(ctx)
        parser._long_opt.update(parser._short_opt)
        parser._match_short_opt = partial(_refuse, parser)  # type: ignore[method-assign]  # click has no setting for it
        return parser


def _refuse(parser: "_OptionParser", flag: str, state: "_ParsingState") -> None:
    """Keep an unknown flag as an argument for `serve`. Raises NoSuchOption if the command does not do so."""
    if not parser.ignore_unknown_options:
        raise click.NoSuchOption(flag, possibilities=parser._long_opt, ctx=parser.ctx)
    state.largs.append(flag)
