"""Encoded thinking, for clients that must pass it back but not show it."""

import base64
import binascii

_SEAL = "held."


def encode_thinking(text: str) -> str:
    """`text` in a form for `decode_thinking`. It is not encrypted."""
    return _SEAL + base64.urlsafe_b64encode(text.encode()).decode()


def decode_thinking(value: object) -> str:
    """The text of a value that a client passed back; "" for another server's value."""
    if not isinstance(value, str) or not value.startswith(_SEAL):
        return ""
    try:
        return base64.urlsafe_b64decode(value.removeprefix(_SEAL)).decode()
    except (binascii.Error, ValueError):
        return ""
