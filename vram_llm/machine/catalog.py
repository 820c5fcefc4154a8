"""Known cards with their makers' figures for memory and bandwidth, found by any usual spelling of the name.

The rows are in catalog.csv in this folder. `memory_gib` is the size on the card's box. `driver_mib` is the
size that its driver reports, if that is smaller by more than 0.4 % (ECC data in the card's own memory,
decimal sizes). Rows of one name differ in memory; the most common size is the first. An empty field is
unknown.
"""

import csv
import dataclasses
import difflib
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from vram_llm.errors import UnknownDevice
from vram_llm.machine.types import DeviceKind
from vram_llm.units import GIB, MIB

FREE_FORM = "24GB@1008GB/s"
_LONGEST_NAME = 80

_MAKERS = {"nvidia", "amd", "intel", "apple"}
# Optional at the beginning of a name ("GeForce RTX 3090", "RTX 3090", "3090").
_BRANDS = _MAKERS | {"geforce", "rtx", "gtx", "gt", "tesla", "radeon", "rx", "instinct", "arc"}
_NOISE = {"gpu", "graphics", "card", "generation", "edition", "with", "design", "corporation", "desktop"}
_SYNONYMS = {"s": "super", "m": "laptop", "mobile": "laptop", "notebook": "laptop"}

_REMARK = re.compile(r"\((?:r|tm|c|radv[^)]*|dg2|bmg[^)]*)\)")  # "Arc(TM)", "(RADV NAVI31)"
_MEMORY = re.compile(r"(\d+)\s*(?:gib|gb|g)\b")
_BRAND_PREFIX = re.compile(r"(geforce|radeon|titan|rtx|gtx|rx|arc)([a-z]?\d\w*|xp)")
_MODEL = re.compile(r"(\d{3,4})((?:ti|super|xtx|xt|gre|laptop|mobile|s|d|m)*)")
_SUFFIX = re.compile(r"ti|super|xtx|xt|gre|laptop|mobile|s|d|m")
_APPLE = re.compile(r"(m\d)(pro|max|ultra)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One variant of a card. `label` distinguishes variants of one name: "NVIDIA GeForce RTX 3080 12GB"."""

    name: str
    label: str
    kind: DeviceKind
    memory_gib: int | None  # on the box; None: it uses the computer's memory, which has any size
    memory_bytes: int | None  # as the driver reports it
    bandwidth_bytes_per_s: float | None
    compute_capability: str | None
    pcie_generation: int | None
    pcie_lanes: int | None
    shares_host_memory: bool
    aliases: tuple[str, ...]
    source: str
    note: str | None


@cache
def cards() -> tuple[Card, ...]:
    """Every row of the catalog."""
    with files(__package__).joinpath("catalog.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    names = [row["name"] for row in rows]
    return tuple(_card(row, several=names.count(row["name"]) > 1) for row in rows)


def find_card(text: str, memory_bytes: int | None = None) -> Card:
    """The card that a driver or a person calls `text`: "NVIDIA GeForce RTX 4080 Laptop GPU", "3090ti".

    If a card is made with several memory sizes, `text` may name one ("3080 12GB"). Otherwise the size closest
    to `memory_bytes` is chosen. Without both, the most common size is chosen, and its note names the others.
    Raises UnknownDevice with the closest names if no card matches, or cards of several names do.
    """
    if len(text) > _LONGEST_NAME:
        raise UnknownDevice(f"A name of {len(text):,} characters is not a card; write it like {FREE_FORM}.")
    words = set(_words(text))
    sizes = {word for word in words if word.endswith("gb") and word[:-2].isdecimal()}
    variants = [card for card in cards() if any(_matches(words, sizes, card, p) for p in _patterns(card))]
    if not words or len({card.name for card in variants}) != 1:
        raise UnknownDevice(_unknown_card(text))
    if memory_bytes is not None:
        return min(variants, key=lambda card: abs((card.memory_bytes or 0) - memory_bytes))
    most_common, *others = variants
    if not others:
        return most_common
    sizes_gb = " and ".join(f"{card.memory_gib} GB" for card in others)
    note = f"also made with {sizes_gb}; this is the one with {most_common.memory_gib} GB."
    return dataclasses.replace(most_common, note=" ".join(filter(None, (note, most_common.note))))


def _card(row: dict[str, str], *, several: bool) -> Card:
    memory_gib = int(row["memory_gib"]) if row["memory_gib"] else None
    memory_bytes = memory_gib * GIB if memory_gib is not None else None
    if row["driver_mib"]:
        memory_bytes = int(row["driver_mib"]) * MIB
    generation, _, lanes = row["pcie"].partition("x")
    return Card(
        name=row["name"],
        label=f"{row['name']} {memory_gib}GB" if several else row["name"],
        kind=DeviceKind(row["kind"]),
        memory_gib=memory_gib,
        memory_bytes=memory_bytes,
        bandwidth_bytes_per_s=float(row["bandwidth_gb_s"]) * 1e9 if row["bandwidth_gb_s"] else None,
        compute_capability=row["compute_capability"] or None,
        pcie_generation=int(generation) if generation else None,
        pcie_lanes=int(lanes) if lanes else None,
        shares_host_memory=row["shares_host_memory"] == "yes",
        aliases=tuple(alias.strip() for alias in row["aliases"].split(";") if alias.strip()),
        source=row["source"],
        note=row["note"] or None,
    )


def _words(text: str) -> Iterator[str]:
    """The normalised words of a card's name: "RTX3090Ti-24GB" gives rtx, 3090, ti, 24gb."""
    text = _REMARK.sub(" ", text.lower())
    text = re.sub(r"max[- ]q", "maxq", text)
    text = _MEMORY.sub(r" \1gb ", text)
    for word in re.findall(r"[a-z0-9]+", text):
        if prefix := _BRAND_PREFIX.fullmatch(word):
            yield prefix[1]
            word = prefix[2]
        if model := _MODEL.fullmatch(word):
            yield model[1]
            yield from (_SYNONYMS.get(suffix, suffix) for suffix in _SUFFIX.findall(model[2]))
        elif apple := _APPLE.fullmatch(word):
            yield from apple.groups()
        elif word not in _NOISE:
            yield _SYNONYMS.get(word, word)


@cache
def _patterns(card: Card) -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
    """The required and the allowed words of each spelling of a card."""
    maker = card.name.split()[0].lower()
    patterns = []
    for spelling in (card.name, *card.aliases):
        words = list(_words(spelling))
        n_brands = next((i for i, word in enumerate(words) if word not in _BRANDS), len(words))
        patterns.append((frozenset(words[n_brands:]), frozenset({*words, maker})))
    return tuple(patterns)


def _matches(
    words: set[str], sizes: set[str], card: Card, pattern: tuple[frozenset[str], frozenset[str]]
) -> bool:
    required, allowed = pattern
    return required <= words and words - allowed <= sizes & {f"{card.memory_gib}gb"}


def _unknown_card(text: str) -> str:
    """The sentence that no single card is called `text`, with the closest names."""
    words = list(_words(text))
    sizes = {word for word in words if word.endswith("gb")}
    numbers = {word for word in words if any(map(str.isdigit, word))} - sizes
    key_words = numbers or set(words)
    with_key_words = [card.label for card in cards() if key_words and key_words <= set(_words(card.label))]
    labels = {" ".join(_words(spelling)): card.label for card in cards() for spelling in _spellings(card)}
    close = difflib.get_close_matches(" ".join(words), labels, n=12, cutoff=0.3)
    nearest = list(dict.fromkeys([*with_key_words, *(labels[spelling] for spelling in close)]))[:3]
    hint = f": nearest are {', '.join(nearest)}" if nearest else ""
    return (
        f"{text!r} names no single card of the catalog{hint}; or give its memory and bandwidth: {FREE_FORM}"
    )


def _spellings(card: Card) -> Iterator[str]:
    """A card's names with all, some and none of the brands at their beginning, which people leave out."""
    for spelling in (card.label, *card.aliases):
        words = spelling.split()
        while words:
            yield " ".join(words)
            if words[0].lower() not in _BRANDS:
                break
            words = words[1:]
