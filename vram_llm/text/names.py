"""Short names of cards, as people write them."""

import re

_MAKERS = re.compile(r"^(NVIDIA|AMD|Intel)(\(R\))?\s+", re.IGNORECASE)
_BRANDS = re.compile(r"^(GeForce|Radeon(?=\s+RX))(\(TM\))?\s+", re.IGNORECASE)
_ENDS = re.compile(r"\s+(GPU|Graphics|Generation|Edition)$", re.IGNORECASE)


def short_name(name: str) -> str:
    """ "RTX 4080 Laptop" of "NVIDIA GeForce RTX 4080 Laptop GPU", a worker's address; other names stay."""
    short = _MAKERS.sub("", name.strip()).removeprefix("worker ")
    if short == name:
        return name
    short = _BRANDS.sub("", short)
    while (shorter := _ENDS.sub("", short)) != short and shorter:
        short = shorter
    return short or name
