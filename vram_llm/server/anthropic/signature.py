"""The `signature` of a thinking block. Where thinking is not shown, it brings the thinking back.

The assistant's thinking belongs to the chat while it calls tools; a client sends blocks back as they came.
"""

from hashlib import blake2s
from typing import Any

from vram_llm.server.known_fields import string_field
from vram_llm.server.sealed import sealed, unsealed


def signature_of(thinking: str, *, shown: bool) -> str:
    """A signature for a block; one that holds the thinking unless that is `shown`."""
    return blake2s(thinking.encode()).hexdigest() if shown else sealed(thinking)


def thinking_in(block: dict[str, Any], at: str) -> str:
    """The thinking in a block that came back; "" where only another server can read it."""
    return string_field(block, "thinking", at) or unsealed(block.get("signature"))
