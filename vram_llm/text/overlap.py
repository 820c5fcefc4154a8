"""How far the end of a text that comes in pieces may be the beginning of a marker."""

from typing import AnyStr


def overlap(text: AnyStr, marker: AnyStr, start: int = 0) -> int:
    """The length of the longest end of `text`, from `start` on, that begins `marker` but is not all of it."""
    first = marker[:1]
    at = text.find(first, max(start, len(text) - len(marker) + 1))
    while at >= 0 and not marker.startswith(text[at:]):
        at = text.find(first, at + 1)
    return len(text) - at if at >= 0 else 0
