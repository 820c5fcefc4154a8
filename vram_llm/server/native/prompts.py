"""The shapes of a native prompt: text, token ids, both mixed, an object with images, a list of these."""

import re
import secrets
from dataclasses import dataclass
from typing import Any

from vram_llm.engine.engine_protocol import MAX_CHARS
from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import Image
from vram_llm.errors import RequestError
from vram_llm.server.image_inputs import RequestImages
from vram_llm.server.known_fields import check_names
from vram_llm.server.parse_prompts import check_vocabulary
from vram_llm.server.prompt_limits import check_ids_fit, check_text_fits
from vram_llm.server.schemas import MAX_CHOICES
from vram_llm.server.serving_context import ServingContext

MEDIA_MARKER = f"<__media_{secrets.token_hex(16)}__>"  # random, so that no text holds it by chance
_MARKERS = re.compile(f"{MEDIA_MARKER}|<__media__>")  # and the one of older servers
MAX_TEXTS = 256  # of a prompt with token ids: each is a question to the engine


@dataclass(frozen=True, slots=True)
class NativePrompts:
    """The prompts of a request, and for each of them its images."""

    prompts: list[str | tuple[int, ...]]
    images: list[tuple[Image, ...]]


async def read_prompts(given: object, info: ModelInfo, serving: ServingContext) -> NativePrompts:
    """The prompts of the field `prompt`, as llama-server's tokenize_input_prompts reads it.

    A list that holds a number is one prompt; any other list is a list of prompts. Raises RequestError.
    """
    places: list[tuple[object, str]] = [(given, "prompt")]
    if isinstance(given, list) and not any(type(part) is int for part in given):
        places = [(each, f"prompt[{i}]") for i, each in enumerate(given)]
    if not 0 < len(places) <= MAX_CHOICES:
        raise RequestError(
            f"'prompt' is a list of {len(places):,} prompts; it must have 1 to {MAX_CHOICES}", "prompt"
        )
    read = [await _read_one(each, at, info, serving) for each, at in places]
    return NativePrompts([prompt for prompt, _ in read], [images for _, images in read])


async def _read_one(
    given: Any, at: str, info: ModelInfo, serving: ServingContext
) -> tuple[str | tuple[int, ...], tuple[Image, ...]]:
    if isinstance(given, dict):
        return await _of_object(given, at, info, serving)
    return await _text_or_tokens(given, at, info, serving), ()


async def _of_object(
    given: dict[str, Any], at: str, info: ModelInfo, serving: ServingContext
) -> tuple[str | tuple[int, ...], tuple[Image, ...]]:
    known = ("prompt_string", "multimodal_data")
    check_names({name: given[name] for name in given if name not in known}, at)
    if "prompt_string" not in given:
        raise RequestError(f"'{at}' must have a 'prompt_string'", at)
    text, data = given["prompt_string"], given.get("multimodal_data")
    if data is None or data == []:
        return await _text_or_tokens(text, f"{at}.prompt_string", info, serving), ()
    images = serving.request_images(info)
    marks = marks_of(data, images, f"{at}.multimodal_data")
    return images.placed(with_marks(text, marks, f"{at}.prompt_string"))


def marks_of(data: object, images: RequestImages, at: str) -> list[str]:
    """The marks of `multimodal_data`, files in base64. Raises RequestError."""
    if not isinstance(data, list):
        raise RequestError(f"'{at}' must be a list of strings in base64", at)
    return [images.from_any(item, f"{at}[{i}]") for i, item in enumerate(data)]


def with_marks(text: object, marks: list[str], at: str) -> str:
    """The text with the marks of images in the places of its media markers. Raises RequestError."""
    if not isinstance(text, str):
        raise RequestError(f"'{at}' must be a string where there are images", at)
    parts = _MARKERS.split(text)
    if len(parts) != len(marks) + 1:
        raise RequestError(
            f"'{at}' has {len(parts) - 1} media markers and there are {len(marks)} files; the marker is "
            "'media_marker' of GET /props",
            at,
        )
    return "".join(part + mark for part, mark in zip(parts, [*marks, ""], strict=True))


async def _text_or_tokens(
    given: object, at: str, info: ModelInfo, serving: ServingContext
) -> str | tuple[int, ...]:
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not given or not all(type(part) in (int, str) for part in given):
        raise RequestError(
            f"'{at}' must be a string, a list of token ids and strings, or an object with 'prompt_string'", at
        )
    check_ids_fit(info, given)
    check_text_fits(info, sum(len(part) for part in given if isinstance(part, str)), at)
    tokens = await tokens_of_mixed(given, at, info.n_vocab, serving, add_special=True, parse_special=True)
    return tuple(tokens)


async def tokens_of_mixed(
    given: list[int | str],
    at: str,
    n_vocab: int,
    serving: ServingContext,
    *,
    add_special: bool,
    parse_special: bool,
) -> list[int]:
    """The token ids of a list of token ids and texts, as llama-server's tokenize_mixed reads it.

    With `add_special`, a text that begins the list gets the vocabulary's special tokens. Raises RequestError.
    """
    check_vocabulary([part for part in given if type(part) is int], n_vocab, at)
    texts = [part for part in given if isinstance(part, str)]
    n_chars = sum(map(len, texts))
    if len(texts) > MAX_TEXTS or n_chars > MAX_CHARS:
        raise RequestError(
            f"'{at}' has {len(texts):,} strings of {n_chars:,} characters between token ids; {MAX_TEXTS} and "
            f"{MAX_CHARS:,} are the most",
            at,
        )
    tokens: list[int] = []
    for i, part in enumerate(given):
        if isinstance(part, str):
            tokens += await serving.engine.tokenize(
                part, add_special=add_special and i == 0, parse_special=parse_special
            )
        else:
            tokens.append(part)
    return tokens
