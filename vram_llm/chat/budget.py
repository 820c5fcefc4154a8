"""The marks between which a model thinks, as a budget of thinking needs them."""

from vram_llm.chat.dialect import Dialect
from vram_llm.chat.formats import harmony


def thinking_marks(dialect: Dialect) -> tuple[str, str] | None:
    """What opens thinking, and what closes it and lets the answer begin; None where none is parsed."""
    if dialect.name == "harmony":
        return (
            f"{harmony.CHANNEL}analysis{harmony.MESSAGE}",
            f"{harmony.END}{harmony.START}assistant",
        )
    return dialect.thinks


def is_opened(prompt: str, opening: str) -> bool:
    """Whether a prompt ends with thinking begun."""
    return prompt.rstrip().endswith(opening)
