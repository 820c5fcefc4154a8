"""The options that put weights of a layer on another device than the layer, in the order typed."""

from typing import Any

import click

from vram_llm.cli.short_flags import given_options
from vram_llm.errors import BadPlan
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.override_text import AUTO, NONE, parse_overrides
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST


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
    """The overrides on the command line; None: no option was given. The first match wins, as in llama.cpp.

    auto and none drop the options before them.
    """
    overrides: tuple[Override, ...] | None = None
    for option, value in given_options(ctx):
        match option.name:
            case "override_tensor" if value == AUTO:
                overrides = None
            case "override_tensor" if value == NONE:
                overrides = ()
            case "override_tensor":
                overrides = (*(overrides or ()), *parse_overrides(value))
            case "cpu_moe":
                overrides = (*(overrides or ()), Override.of_all(LayerPart.EXPERTS, HOST))
            case "n_cpu_moe":
                overrides = (*(overrides or ()), *_of_the_first(int(value), LayerPart.EXPERTS))
            case "n_cpu_ffn":
                overrides = (*(overrides or ()), *_of_the_first(int(value), LayerPart.FFN))
    return overrides


def _of_the_first(n_layers: int, part: LayerPart) -> tuple[Override, ...]:
    return (Override.of(part, range(n_layers), HOST),) if n_layers else ()
