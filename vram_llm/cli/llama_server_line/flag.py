"""A flag of llama-server, and its meaning here."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class ValueKind(StrEnum):
    """How llama-server reads a flag's value (the handlers of common_arg in common/arg.h)."""

    SWITCH = "switch"  # no value; a variable's value is true or false
    ON_OFF = "bool"  # no value; the flag's negative form means off
    INT = "int"
    TEXT = "text"
    TWO = "two"  # two values


@dataclass(frozen=True, slots=True)
class Option:
    """`flag` of `serve` with the same value; `each`: once for each part of a value with commas."""

    flag: str
    each: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """These words on the command line of `serve`, without the flag's value."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TemplateVariable:
    """A key of --chat-template-kwargs; a `value` of None: the flag's."""

    key: str
    value: bool | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """Other words of llama-server's command line for which the flag stands."""

    words: str


@dataclass(frozen=True, slots=True)
class Always:
    """Nothing: the server always does what the flag asks for."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing, and a line says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """An error: without the flag the server would do something else than the line asks for."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A function of rules.py, which looks at other flags too."""

    name: str


Meaning = Option | Words | TemplateVariable | Line | Always | Ignored | Refused | Rule


@dataclass(frozen=True, slots=True)
class ByValue:
    """A meaning for each value; `otherwise` for all others."""

    values: Mapping[str, Meaning]
    otherwise: Meaning


@dataclass(frozen=True, slots=True)
class OnOff:
    """A meaning for on, and one for off."""

    on: Meaning
    off: Meaning


@dataclass(frozen=True, slots=True, eq=False)
class Flag:
    """A row of the table.

    Names, variable and kind are those of common/arg.cpp in llama-cpp-python 0.3.36. A variable of an ON_OFF
    flag has a negative form with LLAMA_ARG_NO_ in place of LLAMA_ARG_.
    """

    names: tuple[str, ...]
    negative: tuple[str, ...]
    variable: str | None
    kind: ValueKind
    meaning: Meaning | ByValue | OnOff

    def meaning_of(self, value: str | bool) -> Meaning:
        """The meaning with `value`; of a switch, the value is whether it is on."""
        match self.meaning:
            case OnOff(on, off):
                return on if value is True else off
            case ByValue(values, otherwise):
                return values.get(str(value), otherwise)
        return self.meaning


def row(names: str, kind: ValueKind, meaning: Meaning | ByValue | OnOff, variable: str | None = None) -> Flag:
    """A row from "--on -o / --no-on": negative forms come after the slash."""
    positive, _, negative = names.partition("/")
    return Flag(tuple(positive.split()), tuple(negative.split()), variable, kind, meaning)
