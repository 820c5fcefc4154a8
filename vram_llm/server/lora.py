"""Scales of LoRA adapters in requests: llama-server's field `lora`."""

from typing import Annotated

from pydantic import Field

from vram_llm.engine.adapters import Adapters, scaled
from vram_llm.engine.model_info import ModelInfo
from vram_llm.errors import RequestError
from vram_llm.server.known_fields import Fields

MAX_ADAPTERS = 256  # in a list
_MOST_SCALE = 1e6


class LoraScale(Fields):
    """An adapter by its number, and its scale."""

    id: Annotated[int, Field(ge=0)]
    scale: Annotated[float, Field(ge=-_MOST_SCALE, le=_MOST_SCALE)]


LoraScales = Annotated[list[LoraScale], Field(max_length=MAX_ADAPTERS)]


class LoraFields(Fields):
    """The field of requests. Adapters that it leaves out have scale 0; an empty list asks for nothing."""

    lora: LoraScales | None = None

    def adapters(self, info: ModelInfo) -> Adapters | None:
        """The adapters to compute with; None: all, as planned. Raises RequestError."""
        adapters = scales_of(info, self.lora) if self.lora else info.adapters_used
        return None if adapters == planned(info) else adapters


def scales_of(info: ModelInfo, scales: list[LoraScale]) -> Adapters:
    """The adapters of a list; the others have scale 0. Raises RequestError."""
    n = len(info.adapters)
    wanted = [0.0] * n
    for i, each in enumerate(scales):
        if each.id >= n:
            there = f"the adapters are 0 to {n - 1}" if n else "the model has none; serve it with --lora"
            raise RequestError(f"there is no LoRA adapter {each.id}: {there}", f"lora[{i}].id")
        if each.id in (other.id for other in scales[:i]):
            raise RequestError(f"'lora' names adapter {each.id} twice", f"lora[{i}].id")
        wanted[each.id] = each.scale
    return scaled(wanted)


def planned(info: ModelInfo) -> Adapters:
    """The model's adapters at the scales of its plan."""
    return scaled(adapter.scale for adapter in info.adapter_files)
