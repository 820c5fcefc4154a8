"""`logit_bias`: OpenAI's object, or pairs. Tokens are given by id or, as in llama-server, by text."""

import math
from typing import Annotated, Any

from pydantic import WithJsonSchema

from vram_llm.engine.engine_protocol import MAX_CHARS, Engine
from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported

_NUMBER = {"anyOf": [{"type": "number"}, {"const": False}]}
_PAIR = {"type": "array", "minItems": 2, "maxItems": 2}
LogitBias = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "object", "additionalProperties": _NUMBER},
                {"type": "array", "items": _PAIR},
                {"type": "null"},
            ]
        }
    ),
]
MAX_BIASES = 4096


async def resolve_text_biases(biases: object, engine: Engine) -> list[tuple[int, float]] | None:
    """Pairs of a token id and the number added to its logit; a text stands for each of its tokens.

    A bias of false bans a token. Raises RequestError.
    """
    if biases is None:
        return None
    given = _pairs(biases)
    n_chars = sum(len(key) for key, _ in given if isinstance(key, str))
    if n_chars > MAX_CHARS:
        raise RequestError(
            f"The texts in 'logit_bias' have {n_chars:,} characters; {MAX_CHARS:,} is the most", "logit_bias"
        )
    pairs: list[tuple[int, float]] = []
    for key, bias in given:
        if isinstance(key, int):
            pairs.append((key, bias))
        else:
            tokens = await engine.tokenize(key, add_special=False, parse_special=False)
            pairs += [(token, bias) for token in tokens]
        _check_number(len(pairs))
    return pairs


def token_biases(biases: object, n_vocab: int) -> dict[int, float] | None:
    """Biases by token id. Raises RequestError, NotSupported for a text: see `resolve_text_biases`."""
    biases_by_token: dict[int, float] = {}
    for key, bias in _pairs(biases) if biases else ():
        if not isinstance(key, int):
            raise NotSupported("'logit_bias' accepts only token ids here, not texts", "logit_bias")
        if not 0 <= key < n_vocab:
            raise RequestError(
                f"Token {key} in 'logit_bias' is not in the vocabulary: the last is {n_vocab - 1}",
                "logit_bias",
            )
        biases_by_token[key] = bias
    return biases_by_token or None


def _check_number(n: int) -> None:
    """Raises RequestError for too many biases."""
    if n > MAX_BIASES:
        raise RequestError(f"'logit_bias' has {n:,} entries; {MAX_BIASES:,} is the most", "logit_bias")


def _pairs(biases: object) -> list[tuple[int | str, float]]:
    if isinstance(biases, dict | list):
        _check_number(len(biases))
    if isinstance(biases, dict):
        given = [(_id_or_text(key), bias, f"logit_bias.{key}") for key, bias in biases.items()]
    elif isinstance(biases, list):
        given = [_pair(item, f"logit_bias[{i}]") for i, item in enumerate(biases)]
    else:
        raise RequestError("'logit_bias' must be an object, or a list of pairs", "logit_bias")
    return [(key, _bias(bias, at)) for key, bias, at in given]


def _pair(item: object, at: str) -> tuple[int | str, object, str]:
    if isinstance(item, dict) and "bias" in item:
        item = [item.get("token", item.get("text")), item["bias"]]
    if not isinstance(item, list | tuple) or len(item) != 2 or type(item[0]) not in (int, str):
        raise RequestError(f"'{at}' must be a pair of a token's id, or a text, and a number", at)
    return item[0], item[1], at


def _bias(bias: object, at: str) -> float:
    if bias is False:
        return -math.inf
    try:
        number = math.nan if isinstance(bias, bool) or not isinstance(bias, int | float) else float(bias)
    except OverflowError:
        number = math.inf
    if not number < math.inf:
        raise RequestError(f"'{at}' must be a number, or false to rule the token out", at)
    return number


def _id_or_text(key: str) -> int | str:
    is_id = key.isascii() and key.isdigit() and len(key) < 20  # int() refuses thousands of digits
    return int(key) if is_id else key
