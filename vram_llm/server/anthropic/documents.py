"""Documents and search results, shown to the model as text."""

import base64
import binascii
from collections.abc import Callable
from html import escape
from typing import Any

from vram_llm.errors import RequestError
from vram_llm.server.anthropic.block_fields import check_source
from vram_llm.server.errors import NotSupported
from vram_llm.server.known_fields import check_names, string_field

Show = Callable[[object, str], str]  # the text of the blocks at a path
_SEND = "send its text, as a source of type 'text'"


def document(block: dict[str, Any], at: str, show: Show) -> str:
    """The text of a document: plain text, or blocks. Raises RequestError."""
    _check_citations(block, at)
    source, where = block.get("source"), f"{at}.source"
    if not isinstance(source, dict):
        raise RequestError(f"'{where}' must be an object", where)
    check_source(source, where)
    kind, media = source.get("type"), source.get("media_type")
    if kind == "text":
        text = string_field(source, "data", where)
    elif kind == "content":
        text = show(source.get("content"), f"{where}.content")
    elif kind == "base64" and isinstance(media, str) and media.startswith("text/"):
        text = _decoded(string_field(source, "data", where), f"{where}.data")
    elif kind == "file":
        raise NotSupported(f"'{where}' is a file's id, and no files are kept here; {_SEND}", where)
    elif kind == "url":
        raise NotSupported(f"'{where}' is a web address, and this server downloads nothing; {_SEND}", where)
    elif kind == "base64":
        raise NotSupported(
            f"'{where}' is of type '{media or 'application/pdf'}', which is not read here; {_SEND}", where
        )
    else:
        raise RequestError(f"'{where}.type' must be 'text' or 'content'", f"{where}.type")
    context = block.get("context")
    return _tagged("document", f"{context}\n\n{text}" if context else text, title=block.get("title"))


def search_result(block: dict[str, Any], at: str, show: Show) -> str:
    """The text of a search result. Raises RequestError."""
    _check_citations(block, at)
    source, title = string_field(block, "source", at), string_field(block, "title", at)
    return _tagged("search_result", show(block.get("content"), f"{at}.content"), title=title, source=source)


def _check_citations(block: dict[str, Any], at: str) -> None:
    citations = block.get("citations")
    if isinstance(citations, dict):
        check_names(citations, f"{at}.citations", frozenset({"enabled"}))
    if isinstance(citations, dict) and citations.get("enabled"):
        raise NotSupported(
            f"'{at}.citations': answers have no citations here; leave it out", f"{at}.citations"
        )


def _decoded(data: str, at: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise RequestError(f"'{at}' is not UTF-8 text in base64", at) from None


def _tagged(tag: str, text: str, **about: Any) -> str:
    names = "".join(f' {name}="{escape(str(value))}"' for name, value in about.items() if value)
    return f"<{tag}{names}>\n{text}\n</{tag}>"
