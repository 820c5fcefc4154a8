"""How every --json is printed: an object with the version of its format first."""

from typing import Any

import msgspec

VERSION = 1
"""Grows when a key goes or changes its meaning, not when one is added. A plan has a version of its own."""


def document(content: Any) -> str:
    """`content`, which becomes an object, as indented JSON with the version first."""
    fields = msgspec.to_builtins(content)
    return msgspec.json.format(msgspec.json.encode({"version": VERSION, **fields}), indent=2).decode()
