"""Objects within a request: fields that are obeyed, that ask for nothing, that are refused."""

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from vram_llm.server.errors import NotSupported, UnknownParameter


class Nested(BaseModel):
    """An object within a request. A field that is not declared is refused, unless its value is null.

    `hints` change nothing on this server. `neutral` holds values that ask for nothing, by field; other
    values of these fields are refused.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    hints: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def is_hint(self, name: str) -> bool:
        """Whether a field of that name changes nothing."""
        return name in self.hints


def check_nested(fields: BaseModel) -> None:
    """Raises RequestError for the first field, within the objects of `fields`, that cannot be obeyed."""
    for at, own in _nested(fields, ""):
        for name, value in (own.model_extra or {}).items():
            _check(own, name, value, f"{at}.{name}")


def _check(own: Nested, name: str, value: Any, at: str) -> None:
    if value is None or own.is_hint(name):
        return
    if name not in own.neutral:
        raise UnknownParameter(f"Unrecognized request argument supplied: {at}", at)
    if value not in own.neutral[name]:
        raise NotSupported(f"'{at}' is not supported here; leave it out", at)


def _nested(value: Any, at: str) -> Iterator[tuple[str, Nested]]:
    if isinstance(value, Nested):
        yield at, value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _nested(getattr(value, name), f"{at}.{name}" if at else name)
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _nested(one, f"{at}[{i}]")
