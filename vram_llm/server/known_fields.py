"""Rules for request fields that are not implemented, the same for every object at any depth.

A field that a class declares is implemented. A field in `ignored` is a hint or bookkeeping without effect on
the answer; any value is accepted. A field in `not_yet` asks for a missing feature; its listed values ask for
nothing and are accepted, other values are refused (400). Any other field is refused by name, unless it is
null.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported, UnknownParameter

_SCALARS = (str, int, float, bool)
Neutral = dict[str, tuple[Any, ...]]


class Fields(BaseModel):
    """An object of a request. Subclasses add to the tables of their bases."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    ignored: ClassVar[frozenset[str]] = frozenset()
    not_yet: ClassVar[Neutral] = {}


def check_fields(fields: BaseModel, at: str = "") -> None:
    """Check the undeclared fields of `fields`, at path `at`, and of all `Fields` in it.

    Raises UnknownParameter, NotSupported.
    """
    if isinstance(fields, Fields):
        check_names(fields.model_extra or {}, at, *_tables(type(fields)))
    for name, value in fields.__dict__.items():
        if value is not None and type(value) not in _SCALARS:
            _check_value(value, f"{at}.{name}" if at else name)


def check_names(
    given: Mapping[str, Any], at: str, ignored: frozenset[str] = frozenset(), not_yet: Neutral | None = None
) -> None:
    """Check undeclared fields at path `at`. Raises UnknownParameter, NotSupported."""
    for name, value in given.items():
        if value is None or name in ignored:
            continue
        path = f"{at}.{name}" if at else name
        if name not in (not_yet or {}):
            raise UnknownParameter(f"Unrecognized request argument supplied: {path}", path)
        if not any(_is_equal(value, neutral) for neutral in (not_yet or {})[name]):
            raise NotSupported(f"'{path}' is not supported yet; leave it out", path)


def _check_value(value: object, at: str) -> None:
    if isinstance(value, BaseModel):
        check_fields(value, at)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            if type(item) not in _SCALARS:  # a prompt may have many thousand token ids
                _check_value(item, f"{at}[{i}]")


def _is_equal(value: object, neutral: object) -> bool:
    is_flag = isinstance(value, bool) or isinstance(neutral, bool)
    return value == neutral and (not is_flag or type(value) is type(neutral))


@lru_cache(maxsize=64)
def _tables(kind: type[Fields]) -> tuple[frozenset[str], Neutral]:
    bases = [base for base in reversed(kind.__mro__) if issubclass(base, Fields)]
    not_yet: Neutral = {}
    for base in bases:
        not_yet |= base.not_yet
    return frozenset().union(*(base.ignored for base in bases)), not_yet


def string_field(holder: Mapping[str, Any], name: str, at: str) -> str:
    """The field `name` of the object at `at`, which must be a string. Raises RequestError."""
    value = holder.get(name)
    if not isinstance(value, str):
        raise RequestError(f"'{at}.{name}' must be a string", f"{at}.{name}")
    return value
