"""`generation_settings`: how an answer was made, with llama-server's names (server-task.cpp, to_json)."""

import math
from dataclasses import asdict
from typing import Any

from vram_llm.engine.request import FILTERS, Request, SamplingParams
from vram_llm.server.native.fields import NativeFields
from vram_llm.server.sampling_fields import LLAMA_SERVER_RANDOM_SEED


def sampling_settings(sampling: SamplingParams) -> dict[str, Any]:
    """The sampling of a request, or of one without sampling fields."""
    given = asdict(sampling)
    biases = [
        {"bias": bias if math.isfinite(bias) else None, "token": token}
        for token, bias in (given.pop("logit_bias") or {}).items()
    ]
    samplers = list(given.pop("samplers") or FILTERS)
    seed = given.pop("seed")
    return {
        "seed": LLAMA_SERVER_RANDOM_SEED if seed is None else seed,
        **given,
        "logit_bias": biases,
        "samplers": samplers,
    }


def generation_settings(fields: NativeFields, request: Request) -> dict[str, Any]:
    """The settings of one of a request's choices."""
    n_predict = -1 if request.max_tokens is None else request.max_tokens
    grammar = request.grammar
    return {
        **sampling_settings(request.sampling),
        "stop": list(request.stop),
        "max_tokens": n_predict,
        "n_predict": n_predict,
        "n_keep": 0,
        "n_discard": 0,
        "n_indent": request.n_indent,
        "t_max_predict_ms": -1 if request.line_time_s is None else round(1000 * request.line_time_s),
        "ignore_eos": bool(fields.ignore_eos),
        "stream": bool(fields.stream),
        "n_probs": fields.n_top or 0,
        "post_sampling_probs": request.post_sampling,
        "grammar": "" if grammar is None else grammar.text,
        "grammar_lazy": False,
        "grammar_triggers": [],
        "preserved_tokens": [],
        "chat_format": "Content-only",
        "reasoning_format": "none",
        "reasoning_in_content": False,
        "generation_prompt": "",
        "timings_per_token": bool(fields.timings_per_token),
        "backend_sampling": False,
        "lora": [{"id": each.id, "scale": each.scale} for each in fields.lora or ()],
    }
