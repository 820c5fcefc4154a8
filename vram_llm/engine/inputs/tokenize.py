"""Prompts become tokens; prompts that cannot be served are refused with a reason."""

from vram_llm.engine.request import FinishReason, Request, TokenEvent
from vram_llm.errors import ContextExceeded, RequestError
from vram_llm.llama.vocab import Vocab

_MOST_CHARS_PER_TOKEN = 64  # on average over a prompt; runs of spaces come nearest


class PromptTokenizer:
    """Checks and tokenizes prompts for a context of `n_ctx` tokens."""

    def __init__(self, vocab: Vocab, n_ctx: int) -> None:
        self._vocab = vocab
        self._n_ctx = n_ctx
        self._last: tuple[str, bool, list[int]] = ("", False, [])  # `n` choices share a prompt

    def tokens(self, request: Request) -> list[int]:
        """The prompt's tokens. Raises RequestError, ContextExceeded."""
        prompt = request.prompt
        if isinstance(prompt, str):
            self.check_length(prompt)
        if request.suffix is not None:
            tokens = self._fill_in_middle(prompt, request.suffix)
        else:
            tokens = self._tokenize(prompt, request.add_bos) if isinstance(prompt, str) else list(prompt)
        if not tokens:
            tokens = [self._vocab.bos if self._vocab.bos >= 0 else self._vocab.eos]
        n_vocab = self._vocab.n_tokens
        if (bad := next((t for t in tokens if not 0 <= t < n_vocab), None)) is not None:
            raise RequestError(f"token id {bad} is outside the vocabulary of {n_vocab} tokens", "prompt")
        self.check_room(tokens)
        return tokens

    def check_length(self, prompt: str) -> None:
        """Raises ContextExceeded for a text that is surely too long: tokenizing it would delay streams."""
        if len(prompt) > self._n_ctx * _MOST_CHARS_PER_TOKEN:
            raise ContextExceeded(
                f"the prompt has {len(prompt):,} characters, far more than the context's {self._n_ctx:,} "
                "tokens",
                n_prompt_tokens=len(prompt) // _MOST_CHARS_PER_TOKEN,
                n_ctx=self._n_ctx,
            )

    def check_room(self, tokens: list[int]) -> None:
        """Raises ContextExceeded if the tokens do not fit the context; ids below 0 are rows of images."""
        if len(tokens) < self._n_ctx:
            return
        n_rows = sum(token < 0 for token in tokens)
        images = f", {n_rows:,} of them for images," if n_rows else ""
        raise ContextExceeded(
            f"the prompt has {len(tokens):,} tokens{images} and "
            f"the context holds {self._n_ctx:,}; shorten the prompt, or serve with a larger --n-ctx",
            n_prompt_tokens=len(tokens),
            n_ctx=self._n_ctx,
        )

    def _fill_in_middle(self, prompt: str | tuple[int, ...], suffix: str) -> list[int]:
        """Prefix, suffix and middle, in the order of llama-server's /infill. Raises RequestError."""
        vocab = self._vocab
        before, after, middle = vocab.fim
        if min(vocab.fim) < 0:
            raise RequestError(
                "the model's vocabulary has no tokens to fill a gap with; leave 'suffix' out, or serve a "
                "model that was trained to",
                "suffix",
            )
        if len(suffix) > self._n_ctx * _MOST_CHARS_PER_TOKEN:
            raise ContextExceeded(
                f"'suffix' has {len(suffix):,} characters, far more than the context holds",
                n_prompt_tokens=len(suffix) // _MOST_CHARS_PER_TOKEN,
                n_ctx=self._n_ctx,
            )
        begin = [vocab.bos] if vocab.adds_bos else []
        head = self._plain(prompt) if isinstance(prompt, str) else list(prompt)
        return [*begin, before, *head, after, *self._plain(suffix), middle]

    def _plain(self, text: str) -> list[int]:
        return self._vocab.tokenize(text, add_special=False, parse_special=False)

    def _tokenize(self, prompt: str, add_bos: bool) -> list[int]:
        if self._last[:2] != (prompt, add_bos):
            self._last = (prompt, add_bos, self._vocab.tokenize(prompt, add_special=add_bos))
        return list(self._last[2])


def refusal(request: Request, error: RequestError) -> TokenEvent:
    """The event that ends a request that cannot be served."""
    return TokenEvent(
        id=request.id,
        finish_reason=FinishReason.ERROR,
        error=str(error),
        error_code=error.code,
        error_param=error.param,
        error_n_ctx=error.n_ctx if isinstance(error, ContextExceeded) else None,
        prompt_tokens=(error.n_prompt_tokens or 0) if isinstance(error, ContextExceeded) else 0,
    )
