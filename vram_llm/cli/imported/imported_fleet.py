"""Imported models as the text of a configuration file."""

from collections.abc import Iterator
from dataclasses import dataclass

from vram_llm.cli.config_template import yaml_of
from vram_llm.cli.imported.imported_model import ImportedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedFleet:
    """Models, and groups of which one model at most is loaded. `remarks` are on the whole file."""

    models: tuple[ImportedModel, ...]
    apart: tuple[tuple[str, tuple[str, ...]], ...] = ()  # name of the group, names of its models
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from (f"# {_one_line(remark)}" for remark in self.remarks)
        yield "models:" if self.models else "models: []"
        for model in self.models:
            yield from _entry(model)
        if self.apart:
            yield "groups:"
        for name, members in self.apart:
            yield from (
                f"  - name: {yaml_of(name)}",
                f"    models: {yaml_of(list(members))}",
                "    apart: true",
            )


def _entry(model: ImportedModel) -> Iterator[str]:
    yield f"  - name: {yaml_of(model.name)}"
    yield from (f"    # {_one_line(remark)}" for remark in model.remarks)
    yield f"    source: {yaml_of(model.source)}"
    if model.aliases:
        yield f"    aliases: {yaml_of(list(model.aliases))}"
    for key, value in model.values.items():
        yield f"    {key}: {yaml_of(value)}"


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
