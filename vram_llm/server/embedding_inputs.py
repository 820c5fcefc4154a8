"""The inputs of an embedding request, in OpenAI's shapes and llama-server's.

llama-server also takes a text as an object ({"prompt_string": TEXT}, or {"content": PARTS}), and a list that
mixes token ids and texts as one input.
"""

from typing import Any

from vram_llm.engine.engine_protocol import MAX_CHARS, Engine
from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported
from vram_llm.server.known_fields import check_names
from vram_llm.server.parse_prompts import Prompts, parse_prompts

MAX_INPUTS = 2048  # OpenAI's


async def embedding_inputs(given: object, n_vocab: int, engine: Engine, field: str) -> Prompts:
    """The inputs that `given`, a request's `field`, holds: each a text or token ids. Raises RequestError."""
    several = isinstance(given, list) and not any(type(item) is int for item in given)
    items: list[Any] = list(given) if several and isinstance(given, list) else [given]
    _check_amount(items, field)
    for i, item in enumerate(items):
        name = f"{field}[{i}]" if several else field
        if isinstance(item, dict):
            items[i] = _text(item, name)
        elif isinstance(item, list) and any(isinstance(part, str) for part in item):
            items[i] = await _joined(item, engine, name)
    if any(isinstance(item, list) for item in items):
        return [prompt for item in items for prompt in parse_prompts(item, n_vocab, field)]
    return parse_prompts(items, n_vocab, field)


def _check_amount(items: list[Any], field: str) -> None:
    """Raises RequestError for too many inputs, or too many texts among token ids."""
    if len(items) > MAX_INPUTS:
        raise RequestError(f"'{field}' has {len(items):,} texts; {MAX_INPUTS:,} is the most", field)
    mixed = (item for item in items if isinstance(item, list))
    lengths = [len(part) for item in mixed for part in item if isinstance(part, str)]
    if len(lengths) > MAX_INPUTS:
        raise RequestError(
            f"'{field}' has {len(lengths):,} texts in lists of parts; {MAX_INPUTS:,} is the most", field
        )
    if sum(lengths) > MAX_CHARS:
        raise RequestError(
            f"The texts in lists of parts in '{field}' have {sum(lengths):,} characters; {MAX_CHARS:,} is "
            "the most",
            field,
        )


async def _joined(parts: list[Any], engine: Engine, name: str) -> list[int]:
    """The token ids of a list of ids and texts. Only a leading text gets the model's first special token."""
    tokens: list[int] = []
    for i, part in enumerate(parts):
        if isinstance(part, str):
            tokens += await engine.tokenize(part, add_special=i == 0, parse_special=True)
        elif type(part) is int:
            tokens.append(part)
        else:
            raise RequestError(f"'{name}[{i}]' must be a token id or a text", name)
    return tokens


def _text(item: dict[str, Any], name: str) -> str:
    """The text of an object. Raises RequestError."""
    if "prompt_string" in item:
        check_names(item, name, frozenset({"prompt_string"}), {"multimodal_data": ([],)})
        text = item["prompt_string"]
        if not isinstance(text, str):
            raise RequestError(f"'{name}.prompt_string' must be a string", f"{name}.prompt_string")
        return text
    check_names(item, name, frozenset({"content", "type"}))
    parts = item.get("content")
    if not isinstance(parts, list) or not parts:
        raise RequestError(
            f"'{name}' must have a 'prompt_string', or a 'content' that is a list of parts and not empty",
            name,
        )
    return "".join(_part(part, f"{name}.content[{i}]") for i, part in enumerate(parts))


def _part(part: object, name: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("image_url", "input_audio", "input_video"):
        raise NotSupported(f"'{name}' is not a text; only texts can be embedded", name)
    if isinstance(part, dict):
        check_names(part, name, frozenset({"type", "text"}))
    text = part.get("text") if isinstance(part, dict) and kind == "text" else None
    if not isinstance(text, str):
        raise RequestError(f"'{name}' must be a part of type 'text' with its 'text'", name)
    return text
