"""Thinking in a form that clients pass back unread, where they are not to show it."""

import base64
import binascii

_SEAL = "held."


def sealed(text: str) -> str:
    """A text that `unsealed` reads. It is no secret."""
    return _SEAL + base64.urlsafe_b64encode(text.encode()).decode()


def unsealed(value: object) -> str:
    """The text in a value that came back; "" where it is another server's."""
    if not isinstance(value, str) or not value.startswith(_SEAL):
        return ""
    try:
        return base64.urlsafe_b64decode(value.removeprefix(_SEAL)).decode()
    except (binascii.Error, ValueError):
        return ""
