"""The `signature` of a thinking block. It contains the thinking if that is not shown.

The assistant's thinking belongs to the chat while it calls tools. Clients send blocks back unchanged.
"""

from hashlib import blake2s
from typing import Any

from vram_llm.server.encoded_thinking import decode_thinking, encode_thinking
from vram_llm.server.known_fields import string_field


def signature_of(thinking: str, *, shown: bool) -> str:
    """The signature of a block. It contains the thinking unless that is `shown`."""
    return blake2s(thinking.encode()).hexdigest() if shown else encode_thinking(thinking)


def thinking_in(block: dict[str, Any], at: str) -> str:
    """The thinking of a block that a client sent back; "" if only another server can read it."""
    return string_field(block, "thinking", at) or decode_thinking(block.get("signature"))
