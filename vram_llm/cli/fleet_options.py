"""Options for where a model of a fleet is placed among the others, for how long, and in how many copies."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from vram_llm.cli.option_types import NEVER, DurationType, ReplicasType
from vram_llm.planner.fleet.types import FleetModelSpec
from vram_llm.units import typed_seconds

_F = TypeVar("_F", bound=Callable[..., Any])
_DEFAULT = FleetModelSpec(name="", source="")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidencyOptions:
    """The values of the options. `devices` are as written: ids, numbers or names."""

    devices: tuple[str, ...]
    preload: bool
    ttl_s: float | None
    min_residency_s: float
    replicas: int | None


_OPTIONS = (
    click.option("--devices", multiple=True, metavar="DEVICE", help=(
        "Device that the model may use: an id (GPU1), a number, or a card's name. Repeat for more.  "
        "[default: all]"
    )),
    click.option("--replicas", type=ReplicasType(), default="1", show_default=True, metavar="N|auto", help=(
        "Copies of the model, each on cards of its own. auto: as many as give the most throughput."
    )),
    click.option("--preload/--no-preload", default=_DEFAULT.preload, help=(
        "Load the model at the start, before those that are not preloaded."
    )),
    click.option("--ttl", "ttl_s", type=DurationType(may_be_never=True), default=NEVER, show_default=True,
                 metavar="TIME", help="Unload the model this long after its last request: 90s, 10m, 1h30m."),
    click.option("--min-residency", "min_residency_s", type=DurationType(),
                 default=typed_seconds(_DEFAULT.min_residency_s), show_default=True, metavar="TIME", help=(
        "Time after its load in which a model is not unloaded for another one."
    )),
)  # fmt: skip

ENTRY_OPTIONS = (
    click.option("--name", metavar="NAME", help="Name of the model in the API.  [default: the file's name]"),
    click.option("--source", metavar="MODEL", help=(
        "The model: a GGUF file, hf:ORG/REPO:Q4_K_M, or a name that `vram-llm models` lists."
    )),
    click.option("--pin", metavar="DEVICE", help="The one device that the model may use."),
    click.option("--priority", type=int, default=_DEFAULT.priority, show_default=True, metavar="N", help=(
        "Models of a higher priority stay longer when memory is needed."
    )),
)  # fmt: skip
"""Options of an entry of `models:` alone."""
ENTRY = ("name", "source", "pin", "priority")
"""Their parameters."""


RESIDENCY = ("devices", "preload", "ttl_s", "min_residency_s", "replicas")
"""The parameters of the options."""


def given_flags(ctx: click.Context) -> tuple[str, ...]:
    """The flags that ask for something, on the context's command line or in its configuration."""
    asks_nothing = ((), False, math.inf, _DEFAULT.min_residency_s, _DEFAULT.replicas)
    defaults = dict(zip(RESIDENCY, asks_nothing, strict=True))
    return tuple(
        param.opts[0]
        for param in ctx.command.params
        if param.name in defaults and ctx.params[param.name] != defaults[param.name]
    )


def residency_options(function: _F) -> _F:
    """Add the options; the command gets them as one argument, `residency`."""

    def collect(**values: Any) -> Any:
        own: dict[str, Any] = {name: values.pop(name) for name in RESIDENCY}
        if own["ttl_s"] == math.inf:
            own["ttl_s"] = None
        return function(residency=ResidencyOptions(**own), **values)

    collect.__doc__ = function.__doc__
    for option in reversed(_OPTIONS):
        collect = option(collect)
    for param in getattr(function, "__click_params__", []):
        collect.__click_params__.append(param)  # type: ignore[attr-defined]  # click's own way to stack decorators
    return collect  # type: ignore[return-value]  # click makes a command of it
