"""Parts of an item's content: text and images."""

from typing import Any

from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported
from vram_llm.server.image_inputs import RequestImages, detail_of
from vram_llm.server.responses.item_fields import check_part

_TEXT = ("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text")
_IMAGES = ("input_image", "computer_screenshot")


def text_of(content: object, at: str, images: RequestImages | None = None) -> str:
    """The text of a string or parts. With `images`, parts may be images. May block. Raises RequestError."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"'{at}' must be a string or a list of parts", at)
    if images is None:
        return "\n".join(_part(part, f"{at}[{i}]") for i, part in enumerate(content))
    parts = (
        _image(part, f"{at}[{i}]", images)
        if isinstance(part, dict) and part.get("type") in _IMAGES
        else _part(part, f"{at}[{i}]")
        for i, part in enumerate(content)
    )
    return images.joined(part for part in parts if part)


def _image(part: dict[str, Any], at: str, images: RequestImages) -> str:
    if part.get("file_id") is not None:
        raise NotSupported(f"'{at}.file_id': no files are kept here; send a data: URL", f"{at}.file_id")
    check_part(part, at)
    detail_of(part, at)
    return images.from_url(part.get("image_url"), f"{at}.image_url")


def _part(part: object, at: str) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise RequestError(f"'{at}' must be an object with a 'type'", at)
    if part["type"] == "input_file":
        raise NotSupported(f"'{at}' is a file, and files are not read here; send its text as input_text", at)
    if part["type"] not in _TEXT:
        raise NotSupported(
            f"Content of type '{part['type']}' is not supported here; send text; images only in a user's "
            "message or a function's output",
            at,
        )
    check_part(part, at)
    text = part.get("refusal" if part["type"] == "refusal" else "text")
    if not isinstance(text, str):
        raise RequestError(f"'{at}.text' must be a string", f"{at}.text")
    return text
