"""The marks between which a model thinks, as a budget of thinking needs them."""

import re

from vram_llm.chat.dialect import Dialect

_TAG = re.compile(r"</?\w[\w:.-]*>")  # answers may speak of it


def thinking_marks(dialect: Dialect) -> tuple[str, str] | None:
    """What opens thinking ("" where it needs no mark), and what closes it; None where none is parsed.

    Where thinking is a message of its own, the second one begins the next message as well.
    """
    return dialect.form.thinks or dialect.thinks


def is_opened(dialect: Dialect, prompt: str) -> bool:
    """Whether an answer to `prompt` begins within the thinking."""
    return dialect.thinking is not None and dialect.thinking.is_opened(prompt)


def may_reopen(opening: str) -> bool:
    """Whether a mark opens thinking wherever it stands in an answer."""
    return bool(opening) and _TAG.fullmatch(opening) is None
