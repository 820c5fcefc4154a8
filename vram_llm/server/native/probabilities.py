"""`completion_probabilities`: tokens and their candidates (server-task.cpp, probs_vector_to_json)."""

import math
from collections.abc import Sequence
from typing import Any

from vram_llm.engine.request import Likelihood, TokenCandidate


def probabilities(likelihoods: Sequence[Likelihood], *, post_sampling: bool) -> list[dict[str, Any]]:
    """An object per token: natural logarithms, or after sampling probabilities between 0 and 1."""
    top = "top_probs" if post_sampling else "top_logprobs"
    return [
        {
            **_described(likelihood.chosen, post_sampling),
            top: [_described(candidate, post_sampling) for candidate in likelihood.top],
        }
        for likelihood in likelihoods
    ]


def _described(candidate: TokenCandidate, post_sampling: bool) -> dict[str, Any]:
    logprob = candidate.logprob or 0.0
    number = {"prob": math.exp(logprob)} if post_sampling else {"logprob": logprob}
    return {
        "id": candidate.token,
        "token": candidate.piece.decode("utf-8", "replace"),
        "bytes": list(candidate.piece),
        **number,
    }
