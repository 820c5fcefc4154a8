"""What options on the command line may be: counts of tokens, sizes, shares, adapters."""

import math
from typing import Any

import click

from vram_llm.planner.types import Lora
from vram_llm.units import parse_bytes, parse_count

LARGEST = "max"


class Count(click.ParamType[int]):
    """A number of tokens: "4096", "32k"."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            count = parse_count(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not 0 < count <= 2**31:
            self.fail(f"{value} is not between 1 and 2,147,483,648", param, ctx)
        return count


class Ctx(Count):
    """A number of tokens, or "max"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return LARGEST if value == LARGEST else super().convert(value, param, ctx)


class Size(click.ParamType[int]):
    """A number of bytes: "0", "4GiB"."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_bytes(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Shares(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them: "0.35,0.45,0.20" or "32,33,16"."""

    name = "shares"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers; write it like 0.35,0.45,0.20", param, ctx)


class LoraFile(click.ParamType[Lora]):
    """An adapter's file and, after a colon, its scale."""

    name = "adapter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Lora:
        if isinstance(value, Lora):
            return value
        path, colon, scale = str(value).rpartition(":")
        try:
            return Lora(path, float(scale)) if colon and math.isfinite(float(scale)) else Lora(str(value))
        except ValueError:
            return Lora(str(value))
