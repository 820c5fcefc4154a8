"""Types of command-line options: counts of tokens, sizes, shares, adapters."""

import csv
import math
from typing import Any, ClassVar

import click

from vram_llm.errors import BadSplit
from vram_llm.machine.device_choice import NO_DEVICES
from vram_llm.model.metadata_override import MetadataOverride
from vram_llm.model.metadata_overrides import parse_override
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import ControlVector, Lora
from vram_llm.units import parse_bytes, parse_count, parse_seconds

LARGEST = "max"
ALL = "all"
AUTO = "auto"
NEVER = "never"
MOST_REPLICAS = 64
ALL_LAYERS = -1
TRAINED = 0


class TokenCountType(click.ParamType[int]):
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


class ContextType(TokenCountType):
    """A number of tokens, "max", "auto", or 0 for as many as the model was trained on."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value) == str(TRAINED):
            return TRAINED
        return value if value in (LARGEST, AUTO) else super().convert(value, param, ctx)


class GpuLayersType(click.ParamType[int | None]):
    """A number of layers, "all" (or any negative number) or "auto"."""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        match str(value).lower():
            case "auto":
                return None
            case "all":
                return ALL_LAYERS
        try:
            return max(int(value), ALL_LAYERS)
        except ValueError:
            self.fail(f"{value!r} is not a number of layers; write it like 33, all or auto", param, ctx)


class MicroBatchType(click.ParamType[int | None]):
    """A number of tokens from 1, or "auto"."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == AUTO:
            return None
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither a number of tokens from 1 nor {AUTO}", param, ctx)
        return int(value)


class SwitchType(click.Choice[str]):
    """on, off or auto, in any of llama.cpp's spellings (common/arg.cpp, is_truthy and its neighbours)."""

    _SPELLINGS: ClassVar = {
        **dict.fromkeys(("1", "true", "enabled"), "on"),
        **dict.fromkeys(("0", "false", "disabled"), "off"),
        "-1": "auto",
    }

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(self._SPELLINGS.get(str(value), value), param, ctx)


class ByteSizeType(click.ParamType[int]):
    """A number of bytes: "0", "4GiB"."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_bytes(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class TensorSplitType(click.ParamType[TensorSplit]):
    """A share for each device, "32,33,16", or shares by name, "GPU1=38,GPU2=43"."""

    name = "shares"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TensorSplit:
        if isinstance(value, TensorSplit):
            return value
        try:
            return TensorSplit.parse(str(value))
        except BadSplit as error:
            self.fail(str(error), param, ctx)


class CountOrAllType(click.ParamType[int | None]):
    """A number from 0, or "all", which is None."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == ALL:
            return None
        try:
            number = int(value)
        except ValueError:
            number = -1
        if number < 0:
            self.fail(f"{value!r} is neither a number nor {ALL}", param, ctx)
        return number


class DurationType(click.ParamType[float]):
    """A time in seconds: "90", "30s", "10m", "1h30m"; "never", if allowed, is infinite."""

    name = "time"

    def __init__(self, *, may_be_never: bool = False) -> None:
        self._may_be_never = may_be_never

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if value == NEVER and self._may_be_never:
            return math.inf
        try:
            seconds = parse_seconds(str(value))
        except ValueError as error:
            self.fail(f"{error}{f', or {NEVER}' if self._may_be_never else ''}", param, ctx)
        if seconds == 0 and self._may_be_never:
            self.fail(f"0 s would unload the model at once; write {NEVER} to keep it", param, ctx)
        return seconds


class ReplicasType(click.ParamType[int | None]):
    """A number of copies from 1, or "auto", which is None."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == AUTO:
            return None
        if not str(value).isdecimal() or not 1 <= int(value) <= MOST_REPLICAS:
            self.fail(f"{value!r} is neither a number from 1 to {MOST_REPLICAS} nor {AUTO}", param, ctx)
        return int(value)


class DeviceListType(click.ParamType[tuple[str, ...]]):
    """Names of devices, separated by commas; "none" is an empty tuple."""

    name = "devices"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        if value == NO_DEVICES:
            return ()
        names = tuple(name.strip() for name in str(value).split(","))
        if not all(names) or NO_DEVICES in names:
            self.fail(
                f"{value!r} is no list of devices; write it like GPU0,GPU1, or {NO_DEVICES}", param, ctx
            )
        return names


class MetadataType(click.ParamType[tuple[MetadataOverride, ...]]):
    """Overrides of metadata, "KEY=TYPE:VALUE,...", as a row of CSV: quotes hold commas."""

    name = "metadata"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[MetadataOverride, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(parse_override(field) for field in next(csv.reader([str(value)]), []))
        except (ValueError, csv.Error) as error:
            self.fail(str(error), param, ctx)


class ControlVectorType(click.ParamType[tuple[ControlVector, ...]]):
    """Files of control vectors as a row of CSV; `scaled`: each with a scale after a colon."""

    name = "vectors"

    def __init__(self, *, scaled: bool) -> None:
        self._is_scaled = scaled

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[ControlVector, ...]:
        if isinstance(value, tuple):
            return value
        fields = next(csv.reader([str(value)]), [])
        if not self._is_scaled:
            return tuple(map(ControlVector, fields))
        return tuple(self._scaled(field, param, ctx) for field in fields)

    def _scaled(self, field: str, param: click.Parameter | None, ctx: click.Context | None) -> ControlVector:
        path, _, text = field.rpartition(":")
        try:
            scale = float(text)
        except ValueError:
            scale = math.nan
        if not path or not math.isfinite(scale):
            self.fail(f"{field!r} has no scale; write it like happy.gguf:0.8", param, ctx)
        return ControlVector(path, scale)


class LayerRangeType(click.ParamType[tuple[int, int]]):
    """The first and the last of some layers: "10-20"."""

    name = "layers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        first, _, last = str(value).partition("-")
        if not first.isdecimal() or not last.isdecimal() or not 1 <= int(first) <= int(last):
            self.fail(f"{value!r} is no range of layers from 1; write it like 10-20", param, ctx)
        return int(first), int(last)


class LoraType(click.ParamType[Lora]):
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
