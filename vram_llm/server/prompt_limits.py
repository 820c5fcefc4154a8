"""Refuses prompts that cannot fit the context, and large grammars, before anything works on them."""

from typing import Any

from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import Grammar
from vram_llm.errors import ContextExceeded, RequestError

MAX_TOOL_GRAMMAR_CHARS = 2**20  # of all tools together


def check_chat_fits(info: ModelInfo, messages: list[dict[str, Any]]) -> None:
    """Raises ContextExceeded for a chat that has more messages or text than the context holds."""
    try:
        _check_chat_fits(info, messages)
    except ContextExceeded as error:
        raise with_truncate_named(error) from None


def with_truncate_named(error: ContextExceeded) -> ContextExceeded:
    """The error of a chat, with the field that drops its oldest turns."""
    return ContextExceeded(
        f"{error}; 'truncate': true drops the oldest turns",
        error.param,
        n_prompt_tokens=error.n_prompt_tokens,
        n_ctx=error.n_ctx,
    )


def _check_chat_fits(info: ModelInfo, messages: list[dict[str, Any]]) -> None:
    if len(messages) > info.n_ctx:
        raise ContextExceeded(
            f"The chat has {len(messages):,} messages of at least one token each and the context holds "
            f"{info.n_ctx:,} tokens; leave older messages out, or serve with a larger --n-ctx",
            "messages",
            n_prompt_tokens=len(messages),
            n_ctx=info.n_ctx,
        )
    check_text_fits(info, sum(map(_n_chars, messages)), "messages")


def check_text_fits(info: ModelInfo, n_chars: int, param: str | None = None) -> None:
    """Raises ContextExceeded for texts of `n_chars` characters, of at least a byte each, that cannot fit."""
    most = info.max_prompt_bytes
    if most is None or n_chars <= most:
        return
    name = "The prompt" if param is None else f"'{param}'"
    raise ContextExceeded(
        f"{name} has {n_chars:,} characters and the context's {info.n_ctx:,} tokens hold {most:,} bytes at "
        "most; shorten it, or serve with a larger --n-ctx",
        param,
        n_prompt_tokens=-(-n_chars * info.n_ctx // most),
        n_ctx=info.n_ctx,
    )


def check_ids_fit(info: ModelInfo, prompt: object) -> None:
    """Raises ContextExceeded for a list of more token ids than the context holds, or a list of such lists."""
    rows = [prompt]
    if isinstance(prompt, list) and len(prompt) <= info.n_ctx and list in set(map(type, prompt)):
        rows += prompt
    for ids in rows:
        if isinstance(ids, list) and len(ids) > info.n_ctx:
            raise ContextExceeded(
                f"'prompt' has {len(ids):,} token ids and the context holds {info.n_ctx:,} tokens; shorten "
                "it, or serve with a larger --n-ctx",
                "prompt",
                n_prompt_tokens=len(ids),
                n_ctx=info.n_ctx,
            )


def check_grammar_size(grammar: Grammar | None) -> None:
    """Raises RequestError for a grammar, made of tools' schemas, of too many characters."""
    while grammar is not None:
        if len(grammar.text) > MAX_TOOL_GRAMMAR_CHARS:
            raise RequestError(
                f"The grammar in '{grammar.field}' has {len(grammar.text):,} characters and "
                f"{MAX_TOOL_GRAMMAR_CHARS:,} is the most; simplify it",
                grammar.field,
            )
        grammar = grammar.answer


def _n_chars(message: dict[str, Any]) -> int:
    """The characters of a message's text, without thinking, which templates leave out of earlier messages."""
    content = message.get("content")
    if isinstance(content, str):
        return len(content)
    parts = content if isinstance(content, list) else ()
    return sum(len(part["text"]) for part in parts if isinstance(part.get("text"), str))
