"""Fields that a request may hold beside those that are obeyed: one rule for every object, however deep.

A field that a class declares is obeyed. One in its `ignored` is a hint or bookkeeping: it says nothing about
the answer, and any value passes. One in `not_yet` asks for something that is not done here: it passes with a
value listed, which asks for nothing, and is refused (400) with another. Any other field is refused by name,
unless it is null, which asks for nothing either.
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
    """Check the unknown fields of `fields`, which stands at `at`, and of all `Fields` in it.

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
    """Check fields, at `at`, that nothing here obeys. Raises UnknownParameter, NotSupported."""
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
