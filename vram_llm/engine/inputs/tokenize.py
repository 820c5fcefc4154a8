"""Prompts become tokens; prompts that cannot be served are refused with a reason."""

from functools import partial

from vram_llm.engine.inputs.infill import infill_tokens
from vram_llm.engine.inputs.text_tokenizer import Cancellation, TextTokenizer
from vram_llm.engine.request import FinishReason, Infill, Request, TokenEvent
from vram_llm.errors import ContextExceeded, RequestError
from vram_llm.llama.vocab import Vocab

_KEEPS_ALL = (1, 2)  # SPM and BPE of llama_vocab_type: each byte of a text is in a token
_LEAST_PER_TOKEN = 64  # bytes; other tokenizers drop white space and unknown words


def max_prompt_bytes(vocab: Vocab, n_ctx: int) -> int:
    """The bytes of a text that can fit `n_ctx` tokens."""
    least = 1 if vocab.kind in _KEEPS_ALL else _LEAST_PER_TOKEN
    return n_ctx * max(vocab.longest_bytes, least)


class PromptTokenizer:
    """Checks and tokenizes prompts for a context of `n_ctx` tokens. Threads may share it.

    `n_batch` tokens are around the gap of an Infill.
    """

    def __init__(self, vocab: Vocab, n_ctx: int, n_batch: int = 2048) -> None:
        self._vocab = vocab
        self._n_ctx = n_ctx
        self._n_batch = n_batch
        self._texts = TextTokenizer(vocab)
        self._last: tuple[str, bool, list[int]] = ("", False, [])  # `n` choices share a prompt

    def is_short(self, request: Request) -> bool:
        """True if a step of the engine may tokenize the request's prompt."""
        prompt = request.prompt if isinstance(request.prompt, str) else None
        infill = request.infill
        around = (infill.prefix, infill.suffix, *(text for _, text in infill.files)) if infill else ()
        return self._texts.is_short(prompt, request.suffix, *around)

    def tokens(self, request: Request, cancellation: Cancellation | None = None) -> list[int]:
        """The prompt's tokens. Raises RequestError, ContextExceeded; CancelledError if it is cancelled."""
        prompt, cancellation = request.prompt, cancellation or Cancellation()
        if isinstance(prompt, str):
            self.check_length(prompt)
        if request.infill is not None:
            tokens = self._infill(request, request.infill, cancellation)
        elif request.suffix is not None:
            tokens = self._fill_in_middle(prompt, request.suffix, cancellation)
        elif isinstance(prompt, str):
            tokens = self._tokenize(prompt, request.add_bos, cancellation)
        else:
            tokens = list(prompt)
        if not tokens:
            tokens = [self._vocab.bos if self._vocab.bos >= 0 else self._vocab.eos]
        n_vocab = self._vocab.n_tokens
        if min(tokens) < 0 or max(tokens) >= n_vocab:
            bad = next(token for token in tokens if not 0 <= token < n_vocab)
            raise RequestError(f"token id {bad} is outside the vocabulary of {n_vocab} tokens", "prompt")
        self.check_room(tokens)
        return tokens

    def check_length(self, text: str, name: str = "the prompt") -> None:
        """Raises ContextExceeded for a text that has more bytes than fit the context's tokens."""
        most, n_bytes = max_prompt_bytes(self._vocab, self._n_ctx), len(text)
        if n_bytes <= most and not text.isascii():
            n_bytes = len(text.encode("utf-8", "replace"))
        if n_bytes > most:
            raise ContextExceeded(
                f"{name} has {n_bytes:,} bytes and the context's {self._n_ctx:,} tokens hold {most:,} at "
                "most; shorten it, or serve with a larger --n-ctx",
                n_prompt_tokens=-(-n_bytes * self._n_ctx // most),
                n_ctx=self._n_ctx,
            )

    def check_room(self, tokens: list[int]) -> None:
        """Raises ContextExceeded if the tokens do not fit the context; ids below 0 are rows of images."""
        if len(tokens) < self._n_ctx:
            return
        n_rows = sum(token < 0 for token in tokens)
        images = f", {n_rows:,} of them for images or sound," if n_rows else ""
        raise ContextExceeded(
            f"the prompt has {len(tokens):,} tokens{images} and "
            f"the context holds {self._n_ctx:,}; shorten the prompt, or serve with a larger --n-ctx",
            n_prompt_tokens=len(tokens),
            n_ctx=self._n_ctx,
        )

    def _fill_in_middle(
        self, prompt: str | tuple[int, ...], suffix: str, cancellation: Cancellation
    ) -> list[int]:
        """Prefix, suffix and middle, in the order of llama-server's /infill. Raises RequestError."""
        vocab, fim = self._vocab, self._vocab.fim
        self._check_can_fill("suffix")
        self.check_length(suffix, "'suffix'")
        begin = [vocab.bos] if vocab.adds_bos else []
        head = self._plain(prompt, cancellation, self._n_ctx) if isinstance(prompt, str) else list(prompt)
        tail = self._plain(suffix, cancellation, self._n_ctx)
        return [*begin, fim.prefix, *head, fim.suffix, *tail, fim.middle]

    def _infill(self, request: Request, infill: Infill, cancellation: Cancellation) -> list[int]:
        """Files, prefix, suffix and middle. Raises RequestError."""
        self._check_can_fill("input_suffix")
        begun = request.prompt
        if isinstance(begun, str):
            begun = tuple(self._tokenize(begun, False, cancellation))
        return infill_tokens(
            self._vocab,
            infill,
            list(begun),
            partial(self._plain, cancellation=cancellation),
            n_batch=min(self._n_batch, self._n_ctx),
            room=request.max_tokens or 0,
            n_ctx=self._n_ctx,
        )

    def _check_can_fill(self, field: str) -> None:
        """Raises RequestError."""
        if not self._vocab.fim.can_fill:
            raise RequestError(
                f"the model's vocabulary has no tokens to fill a gap with; leave '{field}' out, or serve a "
                "model that was trained to",
                field,
            )

    def _plain(self, text: str, cancellation: Cancellation, most: int | None = None) -> list[int]:
        return self._texts.tokens(text, cancellation, add_special=False, parse_special=False, most=most)

    def _tokenize(self, prompt: str, add_bos: bool, cancellation: Cancellation) -> list[int]:
        last = self._last
        if last[:2] != (prompt, add_bos):
            tokens = self._texts.tokens(prompt, cancellation, add_special=add_bos, most=self._n_ctx)
            last = self._last = (prompt, add_bos, tokens)
        return list(last[2])


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
