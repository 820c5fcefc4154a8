"""The options that put weights of a layer on another device than the layer, in the order typed."""

from typing import Any

import click

from vram_llm.cli.settings import settings_of
from vram_llm.cli.short_flags import given_options
from vram_llm.errors import BadPlan
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.override_text import AUTO, NONE, parse_overrides
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST

OVERRIDE_OPTIONS = frozenset({"override_tensor", "cpu_moe", "n_cpu_moe", "n_cpu_ffn"})


class OverrideListType(click.ParamType[tuple[Override, ...] | str]):
    """Overrides, "experts:0-25=CPU" or llama.cpp's "PATTERN=DEVICE", separated by commas; auto or none."""

    name = "overrides"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in (AUTO, NONE) or isinstance(value, tuple):
            return value
        try:
            return parse_overrides(str(value))
        except BadPlan as error:
            self.fail(str(error), param, ctx)


def dictated_overrides(ctx: click.Context) -> tuple[Override, ...] | None:
    """The overrides that options dictate; None: no option was given. The first match wins, as in llama.cpp.

    They come from the command line, or else from a variable or a file, in the order written. auto and none
    drop the options before them.
    """
    overrides: tuple[Override, ...] | None = None
    given = [(option.name, value) for option, value in given_options(ctx)]
    configured = [
        (name, value)
        for name, setting in settings_of(ctx).items()
        if name in OVERRIDE_OPTIONS
        for value in setting.value
    ]
    for name, value in (*configured, *given):
        match name:
            case "override_tensor" if value == AUTO:
                overrides = None
            case "override_tensor" if value == NONE:
                overrides = ()
            case "override_tensor":
                overrides = (*(overrides or ()), *parse_overrides(value))
            case "cpu_moe" if click.BOOL.convert(value, None, ctx):
                overrides = (*(overrides or ()), Override.of_all(LayerPart.EXPERTS, HOST))
            case "n_cpu_moe":
                overrides = (*(overrides or ()), *_of_the_first(int(value), LayerPart.EXPERTS))
            case "n_cpu_ffn":
                overrides = (*(overrides or ()), *_of_the_first(int(value), LayerPart.FFN))
    return overrides


def _of_the_first(n_layers: int, part: LayerPart) -> tuple[Override, ...]:
    return (Override.of(part, range(n_layers), HOST),) if n_layers else ()
