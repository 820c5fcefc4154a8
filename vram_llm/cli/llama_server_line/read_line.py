"""Reads llama-server's command line and its variables, as common_params_parse_ex in common/arg.cpp does."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import click

from vram_llm.cli.llama_server_line.flag import Flag, Line, ValueKind
from vram_llm.cli.llama_server_line.table import ALL_FLAGS, BY_NAME, variables_of
from vram_llm.cli.usage_errors import nearest_flag

TRUE_WORDS = frozenset({"on", "enabled", "true", "1"})
FALSE_WORDS = frozenset({"off", "disabled", "false", "0"})
_REPEATED = frozenset(
    {
        "-ot", "-cmoe", "-ncmoe", "-ncffn", "--lora", "--lora-scaled", "--api-key", "-a", "--spec-type",
        "--override-kv", "--control-vector", "--control-vector-scaled",
    }
)  # fmt: skip
"""Flags that llama-server adds up, by their first name; of others the last one counts."""

_FLASH_ATTENTION = ("-fa", "--flash-attn")  # switches in older versions


@dataclass(frozen=True, slots=True)
class Given:
    """A flag that is given: as a word of the line, or by a variable ("$LLAMA_ARG_CTX_SIZE")."""

    flag: Flag
    name: str
    value: str | bool  # of a switch, whether it is on

    @property
    def is_variable(self) -> bool:
        """Whether it is given by a variable of the environment."""
        return self.name.startswith("$")

    def __str__(self) -> str:
        return self.name if isinstance(self.value, bool) else f"{self.name} {self.value}"


@dataclass(frozen=True, slots=True)
class ReadLine:
    """The flags that count, in the order given; variables come first."""

    given: tuple[Given, ...]
    notes: tuple[str, ...]  # on variables that a flag overrides

    def last(self, name: str) -> Given | None:
        """The flag with this name, if it is given."""
        flag = BY_NAME[name]
        return next((each for each in reversed(self.given) if each.flag is flag), None)


def read_line(words: Sequence[str], variables: Mapping[str, str]) -> ReadLine:
    """The flags of a command line and of `variables`. Raises UsageError."""
    typed = list(_typed(words))
    on_line = {each.flag for each in typed}
    notes, found = [], []
    for each in _of_variables(variables):
        if each.flag in on_line:
            notes.append(f"{each.name} is not used: the line has {_name_on_line(each.flag, typed)}")
        else:
            found.append(each)
    return ReadLine(tuple(_that_count([*found, *typed])), tuple(notes))


def _name_on_line(flag: Flag, typed: Iterable[Given]) -> str:
    return next(each.name for each in typed if each.flag is flag)


def _typed(words: Sequence[str]) -> Iterator[Given]:
    left = deque(words)
    while left:
        word = left.popleft()
        name = word.replace("_", "-") if word.startswith("--") else word
        flag = BY_NAME.get(name)
        if flag is None:
            near = nearest_flag(name, BY_NAME)
            meant = f"; did you mean {near}?" if near else ""
            raise click.UsageError(f"llama-server has no flag {word}{meant}")
        if isinstance(flag.meaning, Line):
            yield from _typed(flag.meaning.words.split())
        elif flag.kind in (ValueKind.SWITCH, ValueKind.ON_OFF):
            yield Given(flag, name, name in flag.names)
        else:
            if name in _FLASH_ATTENTION and (not left or (left[0].startswith("-") and left[0] != "-1")):
                left.appendleft("on")
            if len(left) < 1 + (flag.kind is ValueKind.TWO):
                raise click.UsageError(f"{name} needs a value")
            value = left.popleft()
            if flag.kind is ValueKind.TWO:
                value += f" {left.popleft()}"
            yield Given(flag, name, _checked(flag, name, value))


def _of_variables(variables: Mapping[str, str]) -> Iterator[Given]:
    for flag in ALL_FLAGS:
        found = [name for name in variables_of(flag) if name in variables]
        if not found:
            continue
        name, text = found[0], variables[found[0]]
        if flag.kind is ValueKind.SWITCH:
            if text in TRUE_WORDS:
                yield Given(flag, f"${name}", value=True)
        elif flag.kind is ValueKind.ON_OFF:
            if name != flag.variable:
                yield Given(flag, f"${name}", value=False)
            elif text in TRUE_WORDS | FALSE_WORDS:
                yield Given(flag, f"${name}", text in TRUE_WORDS)
            else:
                raise click.UsageError(f"${name}: {text!r} is neither true nor false")
        else:
            yield Given(flag, f"${name}", _checked(flag, f"${name}", text))


def _checked(flag: Flag, name: str, value: str) -> str:
    """The value; a number without its zeros and signs. Raises UsageError."""
    if flag.kind is not ValueKind.INT:
        return value
    try:
        return str(int(value))
    except ValueError:
        raise click.UsageError(f"{name}: {value!r} is not a whole number") from None


def _that_count(given: Sequence[Given]) -> Iterator[Given]:
    last = {each.flag: number for number, each in enumerate(given)}
    for number, each in enumerate(given):
        if last[each.flag] == number or each.flag.names[0] in _REPEATED:
            yield each
