"""One option of the planning commands: its flags, the fields that it sets, its type and its help."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vram_llm.planner.types import Workload

if TYPE_CHECKING:
    from enum import StrEnum

_F = TypeVar("_F", bound=Callable[..., Any])
_DEFAULT = Workload()


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOption:
    """One row of the table.

    `fields` are the fields of Workload that the option sets; "serving.NAME" is a field of its `serving`.
    `from_field` turns the first field's default into the option's default. `to_field` turns the option's
    value into the value of the fields. None leaves the fields at their defaults.
    """

    flags: str  # click's declarations, separated by spaces, with llama-server's short forms
    fields: tuple[str, ...]
    type: Any = None
    help: str
    from_field: Callable[[Any], Any] = _same
    to_field: Callable[[Any], Any] = _same
    metavar: str | None = None
    multiple: bool = False
    is_flag: bool = False
    without_value: str | None = None  # the option's value if only the flag is given
    has_default: bool = True  # False if another option sets the same field, or the help names the default

    @property
    def flag(self) -> str:
        """The first flag; of "--mmap/--no-mmap", the part before the slash."""
        return self.flags.split()[0].partition("/")[0]

    @property
    def name(self) -> str:
        """The name of its parameter in click."""
        return self.flag.lstrip("-").replace("-", "_")

    def decorator(self) -> Callable[[_F], _F]:
        """click's decorator for it."""
        settings: dict[str, Any] = {"help": self.help, "metavar": self.metavar}
        if self.type is not None:
            settings["type"] = self.type
        if self.multiple:
            settings["multiple"] = True
        elif self.has_default:
            settings["default"] = self.from_field(_default_of(self.fields[0]))
            settings["show_default"] = not self.is_flag
        if self.is_flag:
            settings["is_flag"] = True
        if self.without_value is not None:
            settings |= {"is_flag": False, "flag_value": self.without_value}
        return click.option(*self.flags.split(), self.name, **settings)


def _default_of(field: str) -> Any:
    section, _, name = field.rpartition(".")
    return getattr(getattr(_DEFAULT, section) if section else _DEFAULT, name)


def choice_of(enum: "type[StrEnum]") -> click.Choice[str]:
    """The type of an option whose values are those of `enum`."""
    return click.Choice([member.value for member in enum])
