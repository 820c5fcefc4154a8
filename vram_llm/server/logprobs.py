"""How likely tokens were, as OpenAI's two endpoints write it."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from vram_llm.engine.request import Likelihood, TokenCandidate


class TopLogprob(BaseModel):
    """A token that might have stood there. `bytes` are those it is written with."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of the answer, and the most likely ones at its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of the tokens of a chat's choice."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(BaseModel):
    """Of the tokens of a completion's choice, side by side.

    `text_offset` is where a token begins in the choice's text, in characters. Nothing is predicted of a
    prompt's first token: its entries are null.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


def chat_logprobs(likelihoods: Sequence[Likelihood]) -> ChatLogprobs:
    """For a choice, or a chunk of it."""
    return ChatLogprobs(
        content=[
            TokenLogprob(
                **_described(each.chosen), top_logprobs=[TopLogprob(**_described(c)) for c in each.top]
            )
            for each in likelihoods
        ]
    )


def completion_logprobs(
    likelihoods: Sequence[Likelihood], n_top: int, text_offset: int = 0
) -> CompletionLogprobs:
    """For a choice, or a chunk of it that begins at `text_offset` of the choice's text.

    A negative offset says that as many characters at the beginning are not in the text, as a
    beginning-of-sequence token's.
    """
    tokens = [_text(each.chosen) for each in likelihoods]
    offsets = []
    for each in likelihoods:
        offsets.append(max(0, text_offset))
        text_offset += n_chars(each)
    return CompletionLogprobs(
        tokens=tokens,
        token_logprobs=[each.chosen.logprob for each in likelihoods],
        top_logprobs=[_by_text(each) for each in likelihoods] if n_top else None,
        text_offset=offsets,
    )


def n_chars(likelihood: Likelihood) -> int:
    """Characters the token has in the text."""
    return len(likelihood.chosen.piece.decode("utf-8", "replace"))


def prompt_text(likelihoods: Sequence[Likelihood]) -> str:
    """A prompt as its tokens are written."""
    return b"".join(each.chosen.piece for each in likelihoods).decode("utf-8", "replace")


def prompt_offset(echo: str | None, likelihoods: Sequence[Likelihood]) -> int:
    """Where a prompt's first token begins in its text: before it, where the tokenizer put something there."""
    return 0 if echo is None else len(echo) - sum(n_chars(each) for each in likelihoods)


def _described(candidate: TokenCandidate) -> dict[str, Any]:
    piece = candidate.piece
    return {
        "token": piece.decode("utf-8", "replace"),
        "logprob": candidate.logprob,
        "bytes": list(piece),
    }


def _text(candidate: TokenCandidate) -> str:
    """A token's text; half a character as OpenAI writes it, so that no two tokens look the same."""
    try:
        return candidate.piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in candidate.piece)


def _by_text(likelihood: Likelihood) -> dict[str, float] | None:
    """The most likely tokens and, if it is none of them, the one that stands there."""
    shown = {_text(c): c.logprob for c in (*likelihood.top, likelihood.chosen) if c.logprob is not None}
    return shown or None
