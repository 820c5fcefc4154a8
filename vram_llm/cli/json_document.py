"""The form of every --json: an object with the version of its format first."""

from typing import Any

import msgspec

VERSION = 1
"""Grows when a key is removed or changes its meaning, not when one is added. Plans have their own version."""


def document(content: Any) -> str:
    """`content` as indented JSON with the version first. `content` must encode to an object."""
    fields = msgspec.to_builtins(content)
    return msgspec.json.format(msgspec.json.encode({"version": VERSION, **fields}), indent=2).decode()
