"""The `signature` of a thinking block. Where thinking is not shown, it brings the thinking back.

The assistant's thinking belongs to the chat while it calls tools; a client sends blocks back as they came.
"""

import base64
import binascii
from hashlib import blake2s
from typing import Any

from vram_llm.server.anthropic.places import string

_HELD = "held."


def signature_of(thinking: str, *, shown: bool) -> str:
    """A signature for a block; one that holds the thinking unless that is `shown`."""
    if shown:
        return blake2s(thinking.encode()).hexdigest()
    return _HELD + base64.urlsafe_b64encode(thinking.encode()).decode()


def thinking_in(block: dict[str, Any], at: str) -> str:
    """The thinking in a block that came back; "" where only another server can read it."""
    thinking, signature = string(block, "thinking", at), block.get("signature")
    if thinking or not isinstance(signature, str) or not signature.startswith(_HELD):
        return thinking
    try:
        return base64.urlsafe_b64decode(signature.removeprefix(_HELD)).decode()
    except (binascii.Error, ValueError):
        return ""
