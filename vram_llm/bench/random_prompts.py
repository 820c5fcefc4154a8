"""Prompts of random words with exactly as many tokens as asked for, by the server's own tokenizer.

vLLM's `random` draws token ids. Words make a text that every tokenizer reads back as it was cut, and that a
model answers with text. Prompts have nothing in common but the prefix that is asked for.
"""

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vram_llm.bench.endpoint import Endpoint, LoadPrompt, PromptContent
from vram_llm.bench.server_questions import ServerTokenizer, try_request
from vram_llm.bench.stream_client import StreamClient
from vram_llm.errors import RequestError

_ROUNDS = 20
_AT_ONCE = 8
_PROBE_WORDS = 200
_LOWEST_ID, _HIGHEST_ID = 300, 8000  # ids that any vocabulary of a language model has, and no special ones
_TOKENS_A_WORD = 1.3  # of English, where the server counts none
_WORDS = Path(__file__).with_name("words.txt").read_text(encoding="ascii").split()


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPrompts:
    """How long random prompts and answers are, in tokens.

    `range_ratio` spreads lengths by that share to both sides. Each prompt begins with `prefix_tokens` more
    tokens, which are those of one of `n_prefixes` texts, in turn.
    """

    input_tokens: int
    output_tokens: int
    range_ratio: float = 0.0
    prefix_tokens: int = 0
    n_prefixes: int = 1

    def lengths(self, chance: random.Random) -> tuple[int, int]:
        """Tokens of a prompt, its prefix included, and of its answer."""
        n_input, n_output = (self._spread(mean, chance) for mean in (self.input_tokens, self.output_tokens))
        return self.prefix_tokens + n_input, n_output

    def _spread(self, length: int, chance: random.Random) -> int:
        """A length from floor((1 - ratio) length) to ceil((1 + ratio) length), at least 1: vLLM's rule."""
        low, high = length * (1 - self.range_ratio), length * (1 + self.range_ratio)
        return max(chance.randint(math.floor(low), math.ceil(high)), 1)


@dataclass(frozen=True, slots=True)
class MadePrompts:
    """Prompts of a load. `note` says how their lengths are known, if they are not exact."""

    prompts: tuple[LoadPrompt, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Draft:
    """A prompt to be made: its lengths, the number of its prefix, and its own randomness."""

    n_prompt: int  # tokens, those of the prefix included
    n_output: int
    prefix: int
    chance: random.Random


async def random_prompts(
    client: StreamClient, endpoint: Endpoint, wish: RandomPrompts, n: int, seed: int
) -> MadePrompts:
    """`n` prompts. The first ones are the same for the same seed. Raises ServerUnreachable, RequestError."""
    chances = [random.Random(f"{seed}/{i}") for i in range(n)]
    drafts = [_Draft(*wish.lengths(chance), i % wish.n_prefixes, chance) for i, chance in enumerate(chances)]
    of_prefixes = [random.Random(f"{seed}/prefix {i}") for i in range(wish.n_prefixes)]
    if await ServerTokenizer(client, endpoint.model).is_there():
        texts = await _exact(client, endpoint, wish, drafts, of_prefixes)
        return _made(texts, drafts)
    if not endpoint.is_chat and await _takes_ids(client, endpoint):
        prefixes = [_ids(chance, wish.prefix_tokens) for chance in of_prefixes]
        return _made(
            [
                prefixes[each.prefix] + _ids(each.chance, each.n_prompt - wish.prefix_tokens)
                for each in drafts
            ],
            drafts,
        )
    return await _estimated(client, endpoint, wish, drafts, of_prefixes)


def _made(contents: Sequence[PromptContent], drafts: Sequence[_Draft]) -> MadePrompts:
    pairs = zip(contents, drafts, strict=True)
    return MadePrompts(tuple(LoadPrompt(content, each.n_prompt, each.n_output) for content, each in pairs))


def _words(chance: random.Random, n: int) -> str:
    return " ".join(chance.choices(_WORDS, k=n))


def _ids(chance: random.Random, n: int) -> list[int]:
    return [chance.randint(_LOWEST_ID, _HIGHEST_ID) for _ in range(n)]


async def _takes_ids(client: StreamClient, endpoint: Endpoint) -> bool:
    """Whether the server takes token ids as a prompt, and counts them."""
    ids = _ids(random.Random(0), 16)
    try:
        return (await try_request(client, endpoint, ids)).prompt_tokens == len(ids)
    except RequestError:
        return False


async def _estimated(
    client: StreamClient,
    endpoint: Endpoint,
    wish: RandomPrompts,
    drafts: Sequence[_Draft],
    of_prefixes: Sequence[random.Random],
) -> MadePrompts:
    """Prompts of about these lengths, by the tokens that the server counts in a text."""
    counted = (await try_request(client, endpoint, _words(random.Random(0), _PROBE_WORDS))).prompt_tokens
    per_word = counted / _PROBE_WORDS if counted else _TOKENS_A_WORD
    prefixes = [_words(chance, round(wish.prefix_tokens / per_word)) for chance in of_prefixes]
    own = (max(round((each.n_prompt - wish.prefix_tokens) / per_word), 1) for each in drafts)
    prompts = (
        LoadPrompt(f"{prefixes[each.prefix]} {_words(each.chance, n)}".lstrip(), None, each.n_output)
        for each, n in zip(drafts, own, strict=True)
    )
    note = (
        f"prompt lengths are estimated by {per_word:.2f} tokens a word, for {client.url} has no /tokenize "
        "and /detokenize; the report has the server's own counts"
    )
    return MadePrompts(tuple(prompts), note)


async def _exact(
    client: StreamClient,
    endpoint: Endpoint,
    wish: RandomPrompts,
    drafts: Sequence[_Draft],
    of_prefixes: Sequence[random.Random],
) -> list[str]:
    """A text of each length. Raises RequestError if one is less than a token, or cannot be met."""
    tokenizer = ServerTokenizer(client, endpoint.model)
    added = await _added_tokens(client, endpoint, tokenizer)
    least = min((each.n_prompt for each in drafts), default=added + 1)
    if least <= added:
        raise RequestError(
            f"the server adds {added} tokens to each prompt, so a prompt of {least} cannot be made; ask "
            f"for more than {added} with --random-input-len"
        )
    n_prefix = max(wish.prefix_tokens - added, 0)
    prefixes = [
        await tokenizer.text((await tokenizer.tokens(_words(chance, n_prefix)))[:n_prefix])
        for chance in of_prefixes
        if n_prefix
    ] or [""] * wish.n_prefixes
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def one(draft: _Draft) -> str:
        async with at_once:
            return await _of_length(tokenizer, prefixes[draft.prefix], draft.n_prompt - added, draft.chance)

    return await asyncio.gather(*map(one, drafts))


async def _added_tokens(client: StreamClient, endpoint: Endpoint, tokenizer: ServerTokenizer) -> int:
    """Tokens that the server adds to a prompt: the first one, and a chat's template."""
    text = _words(random.Random(0), 8)
    counted = (await try_request(client, endpoint, text)).prompt_tokens
    return max(counted - len(await tokenizer.tokens(text)), 0) if counted else 0


async def _of_length(tokenizer: ServerTokenizer, prefix: str, length: int, chance: random.Random) -> str:
    """The prefix and random words, `length` tokens together.

    A text that is cut between two tokens may be read as other tokens; then its end is drawn again. Raises
    RequestError.
    """
    text = f"{prefix} {_words(chance, length)}".lstrip()
    for _ in range(_ROUNDS):
        tokens = await tokenizer.tokens(text)
        if len(tokens) > length:
            text = await tokenizer.text(tokens[:length])
            if (n_tokens := len(await tokenizer.tokens(text))) == length:
                return text
            if n_tokens > length:
                text = text.rpartition(" ")[0]
        elif len(tokens) < length:
            text += f" {_words(chance, (length - len(tokens) + 1) // 2)}"
        else:
            return text
    raise RequestError(
        f"no text of {length} tokens was found in {_ROUNDS} tries with the server's /tokenize; ask for "
        "another --random-input-len"
    )
