"""The marks around thinking, for a budget of thinking."""

from vram_llm.chat.dialect import Dialect
from vram_llm.chat.formats.thinking_marks import TAG


def thinking_marks(dialect: Dialect) -> tuple[str, str] | None:
    """The marks before thinking ("" if it needs none) and after it; None if no thinking is parsed.

    If thinking is a message of its own, the second mark also begins the next message.
    """
    return dialect.form.thinks or dialect.thinks


def is_opened(dialect: Dialect, prompt: str) -> bool:
    """Whether an answer to `prompt` begins within the thinking."""
    return dialect.thinking is not None and dialect.thinking.is_opened(prompt)


def may_reopen(opening: str) -> bool:
    """Whether a mark opens thinking anywhere in an answer."""
    return bool(opening) and TAG.fullmatch(opening) is None
