"""The inputs of an embedding request, in OpenAI's shapes and llama-server's.

llama-server also takes a text as an object ({"prompt_string": TEXT, "multimodal_data": FILES}, or
{"content": PARTS}), with images and sound, and a list that mixes token ids and texts as one input.
"""

from dataclasses import dataclass
from typing import Any

from vram_llm.engine.engine_protocol import MAX_CHARS, Engine
from vram_llm.engine.request import Image
from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported
from vram_llm.server.image_inputs import RequestImages
from vram_llm.server.known_fields import check_names
from vram_llm.server.native.prompts import marks_of, with_marks
from vram_llm.server.parse_prompts import parse_prompts
from vram_llm.server.template_messages import audio_mark, image_mark
from vram_llm.server.worker_threads import prepare_in_thread

MAX_INPUTS = 2048  # OpenAI's
Prompt = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EmbeddingInputs:
    """Texts and token ids, and the images of each of them, or () if there are none."""

    prompts: tuple[Prompt, ...]
    images: tuple[tuple[Image, ...], ...]


async def embedding_inputs(
    given: object, n_vocab: int, engine: Engine, field: str, images: RequestImages
) -> EmbeddingInputs:
    """The inputs that `given`, a request's `field`, holds. Raises RequestError."""
    several = isinstance(given, list) and not any(type(item) is int for item in given)
    items: list[Any] = list(given) if several and isinstance(given, list) else [given]
    _check_amount(items, field)
    for i, item in enumerate(items):
        name = f"{field}[{i}]" if several else field
        if isinstance(item, dict):  # in a thread: it may have many megabytes, or name a file
            items[i] = await prepare_in_thread(_text, item, name, images)
        elif isinstance(item, list) and any(isinstance(part, str) for part in item):
            items[i] = await _joined(item, engine, name)
    if any(isinstance(item, list) for item in items):
        prompts = [prompt for item in items for prompt in parse_prompts(item, n_vocab, field)]
    else:
        prompts = parse_prompts(items, n_vocab, field)
    if not images.kept:
        return EmbeddingInputs(tuple(prompts), ())
    placed = [_placed(prompt, images) for prompt in prompts]
    return EmbeddingInputs(tuple(text for text, _ in placed), tuple(found for _, found in placed))


def _placed(prompt: Prompt, images: RequestImages) -> tuple[Prompt, tuple[Image, ...]]:
    """An input without marks, and its own images."""
    if not isinstance(prompt, str):
        return prompt, ()
    return images.within([{"content": prompt}]).placed(prompt)


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


def _text(item: dict[str, Any], name: str, images: RequestImages) -> str:
    """The text of an object, with marks where images are. Raises RequestError."""
    if "prompt_string" in item:
        check_names(item, name, frozenset({"prompt_string", "multimodal_data"}))
        text, data = item["prompt_string"], item.get("multimodal_data")
        if data is not None and data != []:
            marks = marks_of(data, images, f"{name}.multimodal_data")
            return with_marks(text, marks, f"{name}.prompt_string")
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
    return "".join(_part(part, f"{name}.content[{i}]", images) for i, part in enumerate(parts))


def _part(part: object, name: str, images: RequestImages) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "input_video":
        raise NotSupported(f"'{name}' is a video; send texts, images and sound", name)
    if isinstance(part, dict):
        if kind == "image_url":
            return image_mark(part, name, images)
        if kind == "input_audio":
            return audio_mark(part, kind, name, images)
        check_names(part, name, frozenset({"type", "text"}))
    text = part.get("text") if isinstance(part, dict) and kind == "text" else None
    if not isinstance(text, str):
        raise RequestError(f"'{name}' must be a part of type 'text' with its 'text'", name)
    return text
