"""A line of llama-server as options of `vram-llm serve`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import click

from vram_llm.cli.llama_server_line.devices import LlamaDevices
from vram_llm.cli.llama_server_line.flag import (
    Always,
    Ignored,
    Meaning,
    Option,
    Refused,
    Rule,
    TemplateVariable,
    Words,
)
from vram_llm.cli.llama_server_line.read_line import Given, ReadLine, read_line

PLACES = ("-ngl", "-ts", "-ot", "-cmoe", "-ncmoe", "-ncffn")
"""First names of flags that place weights. A line with one of them gets llama-server's own values for what it
leaves out and what takes memory on devices."""


@dataclass(slots=True)
class Translation:
    """The options of `serve` that a line becomes, and notes on its other flags.

    `words` are the options without the model. `environment` has variables to set, and `secrets` the shell's
    text for those whose value must not be shown.
    """

    line: ReadLine
    find_devices: Callable[[], LlamaDevices]
    words: list[str] = field(default_factory=list)
    template_variables: dict[str, object] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    always: list[str] = field(default_factory=list)
    _devices: LlamaDevices | None = None

    @property
    def devices(self) -> LlamaDevices:
        """llama.cpp's names of the devices, found when they are first needed."""
        if self._devices is None:
            self._devices = self.find_devices()
        return self._devices

    @property
    def places_weights(self) -> bool:
        """Whether the line itself says where weights are."""
        split_mode = self.line.last("-sm")
        return any(self.line.last(name) for name in PLACES) or (
            split_mode is not None and split_mode.value == "none"
        )

    def add(self, *words: str) -> None:
        """Add options of `serve`."""
        self.words += words

    def arguments(self) -> list[str]:
        """The arguments of `serve`."""
        words = list(self.words)
        if self.template_variables:
            words += ["--chat-template-kwargs", json.dumps(self.template_variables)]
        return words

    def notes(self) -> list[str]:
        """A line for each flag and variable that is not used."""
        return [*(f"ignored: {note}" for note in self.line.notes), *self.ignored]


def translate(
    words: Sequence[str],
    variables: Mapping[str, str],
    find_devices: Callable[[], LlamaDevices],
) -> Translation:
    """The translation of a command line of llama-server with its environment. Raises UsageError."""
    from vram_llm.cli.llama_server_line.model_rules import is_router
    from vram_llm.cli.llama_server_line.several_models import without_placement

    line = read_line(words, variables)
    return translated(without_placement(line) if is_router(line) else line, find_devices)


def translated(line: ReadLine, find_devices: Callable[[], LlamaDevices]) -> Translation:
    """The translation of a line that is read. Raises UsageError."""
    from vram_llm.cli.llama_server_line.rules import RULES, finish

    found = Translation(line, find_devices)
    for given in found.line.given:
        meaning = given.flag.meaning_of(given.value)
        if isinstance(meaning, Rule):
            RULES[meaning.name](found, given)
        else:
            apply(found, given, meaning)
    finish(found)
    return found


def apply(found: Translation, given: Given, meaning: Meaning) -> None:
    """Add a flag's meaning, which no other flag changes. Raises UsageError if it is refused."""
    value = str(given.value)
    match meaning:
        case Option(flag, each=True):
            found.add(*(word for part in value.split(",") if part.strip() for word in (flag, part.strip())))
        case Option(flag):
            found.add(flag, value)
        case Words(words):
            found.add(*words)
        case TemplateVariable(key, fixed):
            found.template_variables[key] = value if fixed is None else fixed
        case Always(reason):
            found.always.append(f"always so: {given}: {reason}")
        case Ignored(reason):
            found.ignored.append(f"ignored: {given}: {reason}")
        case Refused(reason):
            raise click.UsageError(f"{given}: {reason}")
