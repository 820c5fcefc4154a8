"""Check the types of arguments of public functions when they are called."""

from dataclasses import fields
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_MADE_BY = {
    "Machine": "vram_llm.detect()",
    "Plan": "vram_llm.plan() or vram_llm.load_plan()",
    "Workload": "vram_llm.Workload(n_ctx=16_384)",
    "TensorSplit": 'vram_llm.TensorSplit.parse("GPU1=38,GPU2=43")',
}


def check_type(name: str, value: object, *types: type) -> None:
    """Raises TypeError with one sentence if `value`, the argument `name`, is not of one of `types`."""
    if isinstance(value, types):
        return
    wanted = " or ".join(type_.__name__ for type_ in types if type_ is not type(None))
    made_by = next(
        (f", as from {_MADE_BY[type_.__name__]}" for type_ in types if type_.__name__ in _MADE_BY), ""
    )
    raise TypeError(f"{name} is of type {type(value).__name__}; give {wanted}{made_by}")


def check_field_types(given: Any) -> None:
    """Check every field of a dataclass against its annotation. Raises TypeError."""
    hints = get_type_hints(type(given))
    for field in fields(given):
        check_type(
            f"{type(given).__name__}.{field.name}", getattr(given, field.name), *_types_in(hints[field.name])
        )


def _types_in(hint: Any) -> tuple[type, ...]:
    if get_origin(hint) in (Union, UnionType):
        return tuple(type_ for part in get_args(hint) for type_ in _types_in(part))
    type_ = get_origin(hint) or hint
    return (float, int) if type_ is float else (type_,)
