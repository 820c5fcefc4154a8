"""Log-probabilities of tokens, in the formats of OpenAI's two endpoints."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from vram_llm.engine.request import Likelihood, TokenCandidate


class TopLogprob(BaseModel):
    """A candidate token. `bytes` are the token's own."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of the answer, with the most likely candidates at its position."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Logprobs of a chat's choice."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(BaseModel):
    """Logprobs of a completion's choice, as parallel lists.

    `text_offset` is where a token begins in the choice's text, in characters. A prompt's first token has no
    prediction: its entries are null.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


def chat_logprobs(likelihoods: Sequence[Likelihood]) -> ChatLogprobs:
    """Logprobs of a choice, or of a chunk of it."""
    return ChatLogprobs(
        content=[
            TokenLogprob(
                **_described(token.chosen), top_logprobs=[TopLogprob(**_described(c)) for c in token.top]
            )
            for token in likelihoods
        ]
    )


def completion_logprobs(
    likelihoods: Sequence[Likelihood], n_top: int, text_offset: int = 0
) -> CompletionLogprobs:
    """Logprobs of a choice, or of a chunk that begins at `text_offset` of the choice's text.

    A negative offset: this many leading characters are not in the text, such as those of a
    beginning-of-sequence token.
    """
    tokens = [_text(likelihood.chosen) for likelihood in likelihoods]
    offsets = []
    for likelihood in likelihoods:
        offsets.append(max(0, text_offset))
        text_offset += n_chars(likelihood)
    return CompletionLogprobs(
        tokens=tokens,
        token_logprobs=[likelihood.chosen.logprob for likelihood in likelihoods],
        top_logprobs=[_by_text(likelihood) for likelihood in likelihoods] if n_top else None,
        text_offset=offsets,
    )


def n_chars(likelihood: Likelihood) -> int:
    """The number of characters of the token."""
    return len(likelihood.chosen.piece.decode("utf-8", "replace"))


def prompt_text(likelihoods: Sequence[Likelihood]) -> str:
    """The text of a prompt's tokens."""
    return b"".join(likelihood.chosen.piece for likelihood in likelihoods).decode("utf-8", "replace")


def prompt_offset(echo: str | None, likelihoods: Sequence[Likelihood]) -> int:
    """Offset of a prompt's first token in its text; negative if the tokenizer added leading tokens."""
    return 0 if echo is None else len(echo) - sum(n_chars(likelihood) for likelihood in likelihoods)


def _described(candidate: TokenCandidate) -> dict[str, Any]:
    piece = candidate.piece
    return {
        "token": piece.decode("utf-8", "replace"),
        "logprob": candidate.logprob,
        "bytes": list(piece),
    }


def _text(candidate: TokenCandidate) -> str:
    """A token's text; incomplete UTF-8 in OpenAI's escaped form, so that tokens stay distinct."""
    try:
        return candidate.piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in candidate.piece)


def _by_text(likelihood: Likelihood) -> dict[str, float] | None:
    """Logprobs of the most likely tokens and of the chosen one."""
    shown = {_text(c): c.logprob for c in (*likelihood.top, likelihood.chosen) if c.logprob is not None}
    return shown or None
