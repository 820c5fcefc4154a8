"""Checks of requests for llama.cpp's sampler `infill`, whose faults would end the engine."""

from vram_llm.engine.request import Request
from vram_llm.errors import RequestError
from vram_llm.llama.vocab import Vocab

MOST_CANDIDATES = 256  # it compares each with each
_MOST_BYTES = 512  # of a token; llama_sampler_infill_apply does not read longer ones


def check_infill_sampler(request: Request, vocab: Vocab) -> None:
    """Raises RequestError if the request names `infill` and it cannot be used."""
    params = request.sampling
    if params.samplers is None or "infill" not in params.samplers or params.mirostat:
        return
    before = params.samplers[: params.samplers.index("infill")]
    if "top_k" not in before or not 0 < params.top_k <= MOST_CANDIDATES:
        raise RequestError(
            f"'samplers' has 'infill', which needs 'top_k' before it, of 1 to {MOST_CANDIDATES} tokens",
            "samplers",
        )
    if request.grammar is not None or request.has_token_rules:
        raise RequestError(
            "'samplers' has 'infill', which may end an answer at any token, so it goes with no grammar and "
            "no 'min_tokens'",
            "samplers",
        )
    if vocab.eos < 0 or vocab.longest_bytes > _MOST_BYTES:
        raise RequestError(
            "'samplers' has 'infill', which this model's vocabulary does not allow", "samplers"
        )
