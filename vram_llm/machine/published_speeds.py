"""Decode speeds that others published, with source, date and build of llama.cpp: measured facts.

The rows are in published_speeds.csv in this folder; `python -m scripts.published_speeds` makes it from a file
of published measurements. All have one stream on equal cards that hold the whole model.
"""

import csv
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_suffix(".csv")


class PublishedRow(NamedTuple):
    """One measurement. `total_mib` and `active_mib` are those of the model's shape in a near quantisation."""

    id: str
    source: str
    date: str  # as precise as the source: "2026-05-16", "2025-2026"
    build: str  # of llama.cpp; empty: not published
    card: str  # its name in the catalog
    n_cards: int
    generation: str  # of ChipGeneration; empty: unknown
    bandwidth_gb_s: int  # of one card
    backend: str  # of DeviceKind
    model: str
    quantization: str
    kind: str  # "dense", "moe", "hybrid" or "hybrid moe", as model_kind
    total_mib: int
    active_mib: int  # read for a token
    depth: int  # tokens before those that were timed
    n_generated: int  # tokens that were timed; 0: not published
    tokens_per_s: float


@cache
def published_rows() -> tuple[PublishedRow, ...]:
    """All rows."""
    with files(__package__).joinpath(FILE.name).open(encoding="utf-8") as lines:
        return tuple(_row(row) for row in csv.DictReader(lines))


def _row(row: dict[str, str]) -> PublishedRow:
    types = PublishedRow.__annotations__
    return PublishedRow(**{name: types[name](text) for name, text in row.items()})
