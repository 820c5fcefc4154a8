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


def expect(name: str, value: object, *kinds: type) -> None:
    """Raises TypeError with one sentence if `value`, the argument `name`, is not of one of `kinds`."""
    if isinstance(value, kinds):
        return
    wanted = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
    made_by = next(
        (f", as from {_MADE_BY[kind.__name__]}" for kind in kinds if kind.__name__ in _MADE_BY), ""
    )
    raise TypeError(f"{name} is of type {type(value).__name__}; give {wanted}{made_by}")


def expect_fields(given: Any) -> None:
    """Check every field of a dataclass against its annotation. Raises TypeError."""
    hints = get_type_hints(type(given))
    for field in fields(given):
        expect(f"{type(given).__name__}.{field.name}", getattr(given, field.name), *_kinds(hints[field.name]))


def _kinds(hint: Any) -> tuple[type, ...]:
    if get_origin(hint) in (Union, UnionType):
        return tuple(kind for part in get_args(hint) for kind in _kinds(part))
    kind = get_origin(hint) or hint
    return (float, int) if kind is float else (kind,)
