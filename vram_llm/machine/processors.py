"""Known processors with their makers' figures for cores and memory, found by any usual spelling of the name.

The rows are in processors.csv in this folder. `channels` counts channels of 64 bits. `memory` lists the kinds
of memory that the maker names, each with its fastest rate; the first is preferred. If the memory is soldered
on, `bandwidth_gb_s` is the maker's figure, and `memory_gib` lists the sizes on sale; rows of one name differ
in them. `graphics` is the card of catalog.csv that is part of the processor and uses its memory.
"""

import csv
import dataclasses
import difflib
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from vram_llm.errors import UnknownDevice
from vram_llm.machine.memory_kinds import MemoryKind, parse_memory_kind

EXAMPLES = '"Ryzen 9 7950X", "2x EPYC 7763" or "16 cores"'
_LONGEST_NAME = 80

# Words that people leave out: "AMD Ryzen 9 7950X", "Ryzen 7950X", "7950X".
_OPTIONAL = {
    "amd", "intel", "apple", "nvidia", "ampere", "qualcomm", "raspberry", "processor",
    "ryzen", "threadripper", "epyc", "core", "ultra", "xeon", "gold", "platinum", "jetson", "snapdragon",
    "pro", "ai", "hx", "i3", "i5", "i7", "i9", "w", "w3", "w5", "w7", "w9", "3", "5", "7", "9",
}  # fmt: skip
_NOISE = re.compile(
    r"\((?:r|tm|c)\)|\bcpu\b|\b\d+-cores?\b|\b\d+th gen\b|\bprocessor\b|@.*|\bw(?:ith)?/? radeon.*"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """A processor, or one version of it."""

    name: str
    cores: int
    threads: int
    channels: int | None  # of 64 bits; None: `bandwidth_bytes_per_s` is the maker's figure
    memory: tuple[MemoryKind, ...]
    bandwidth_bytes_per_s: float | None
    pcie_generation: int | None
    instructions: tuple[str, ...]
    graphics: str | None
    memory_gib: tuple[int, ...]
    aliases: tuple[str, ...]
    source: str
    note: str | None


@cache
def processors() -> tuple[Processor, ...]:
    """Every row of the catalog."""
    with files(__package__).joinpath("processors.csv").open(encoding="utf-8") as lines:
        return tuple(map(_processor, csv.DictReader(lines)))


def find_processor(text: str, memory_gib: float | None = None) -> Processor:
    """The processor that the kernel or a person calls `text`: "AMD EPYC 7763 64-Core Processor", "13900k".

    Of several versions, it is the one on sale with `memory_gib`, else the first. Raises UnknownDevice with
    the closest names if no processor matches, or processors of several names do.
    """
    if len(text) > _LONGEST_NAME:
        raise UnknownDevice(
            f"A name of {len(text):,} characters is not a processor; write it like {EXAMPLES}."
        )
    words = frozenset(_words(text))
    versions = [
        processor
        for processor in processors()
        if any(_matches(words, *pattern) for pattern in _patterns(processor))
    ]
    names = sorted({processor.name for processor in versions})
    if len(names) > 1:
        raise UnknownDevice(f"{text!r} may be {' or '.join(names[:4])}; write the name in full.")
    if not versions or not words:
        raise UnknownDevice(_unknown_processor(text))
    return _sold_with(versions, memory_gib)


def processor_with_graphics(card: str, memory_gib: float | None = None) -> Processor | None:
    """The processor that has `card` of catalog.csv as its graphics; None if there is none.

    Of several versions, it is the one on sale with `memory_gib`, else the first.
    """
    versions = [processor for processor in processors() if processor.graphics == card]
    return _sold_with(versions, memory_gib) if versions else None


def _sold_with(versions: list[Processor], memory_gib: float | None) -> Processor:
    return next((version for version in versions if memory_gib in version.memory_gib), versions[0])


def _processor(row: dict[str, str]) -> Processor:
    return Processor(
        name=row["name"],
        cores=int(row["cores"]),
        threads=int(row["threads"]),
        channels=int(row["channels"]) if row["channels"] else None,
        memory=tuple(map(parse_memory_kind, _list(row["memory"]))),
        bandwidth_bytes_per_s=float(row["bandwidth_gb_s"]) * 1e9 if row["bandwidth_gb_s"] else None,
        pcie_generation=int(row["pcie"]) if row["pcie"] else None,
        instructions=_list(row["instructions"]),
        graphics=row["graphics"] or None,
        memory_gib=tuple(map(int, _list(row["memory_gib"]))),
        aliases=_list(row["aliases"]),
        source=row["source"],
        note=row["note"] or None,
    )


def _list(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(";") if part.strip())


def _words(text: str) -> Iterator[str]:
    """The normalised words of a name: "Intel(R) Core(TM) i9-13900K CPU" gives intel, core, i9, 13900k."""
    text = _NOISE.sub(" ", text.lower())
    text = re.sub(r"\bm(\d)(pro|max|ultra)\b", r"m\1 \2", text)
    text = re.sub(r"\b(i[3579]|ryzen ?[3579])[ -]?(?=\d{4})", r"\1 ", text)
    return iter(re.findall(r"[a-z0-9]+", text))


@cache
def _patterns(processor: Processor) -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
    """The required and the allowed words of each spelling of a processor."""
    maker = processor.name.split()[0].lower()
    spellings = [frozenset(_words(spelling)) for spelling in (processor.name, *processor.aliases)]
    optional = _OPTIONAL if maker != "apple" else {"apple"}
    return tuple((words - optional, words | {maker}) for words in spellings)


def _matches(words: frozenset[str], required: frozenset[str], allowed: frozenset[str]) -> bool:
    return bool(required) and required <= words <= allowed


def _unknown_processor(text: str) -> str:
    """The sentence that no single processor is called `text`, with the closest names."""
    names = {" ".join(_words(processor.name)): processor.name for processor in processors()}
    close = difflib.get_close_matches(" ".join(_words(text)), names, n=3, cutoff=0.5)
    nearest = f": nearest are {', '.join(names[spelling] for spelling in close)}" if close else ""
    return f"{text!r} names no single processor of the catalog{nearest}; or give its cores: 16 cores"
