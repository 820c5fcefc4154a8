"""The tokens of an embedding request's inputs, the rows of their images, and the limits of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from vram_llm.engine.inputs.image_prompts import ImagePrompts, check_media
from vram_llm.engine.inputs.text_tokenizer import Cancellation, TextTokenizer
from vram_llm.engine.inputs.tokenize import PromptTokenizer, max_prompt_bytes
from vram_llm.engine.request import EmbeddingRequest, Image
from vram_llm.engine.rerank_prompt import TEMPLATE, rerank_tokens
from vram_llm.errors import ContextExceeded, RequestError
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.multimodal.encoder import ImageRows


@dataclass(frozen=True, slots=True)
class MixedInput:
    """Runs of tokens, and images between them. Its length counts tokens and rows."""

    parts: Sequence[list[int] | ImageRows]

    def __len__(self) -> int:
        return sum(part.n_rows if isinstance(part, ImageRows) else len(part) for part in self.parts)


Tokens = list[int] | MixedInput


class EmbeddingTokens:
    """Tokenizes inputs for `model`, whose plan has a pooling. Threads may share it.

    `images` reads images; None if the model has no projector.
    """

    def __init__(self, model: LoadedModel) -> None:
        whole = min(model.n_ubatch, model.n_ctx_seq, model.n_ctx_train)
        self._max_tokens = model.n_ctx_seq if model.can_split_texts else whole
        self._vocab = model.vocab
        self._template = model.metadata(TEMPLATE)
        self._texts = TextTokenizer(model.vocab)
        tokenizer = PromptTokenizer(model.vocab, model.n_ctx_seq, model.n_batch)
        reader = model.images
        self.images = None if reader is None else ImagePrompts(reader, tokenizer, model.n_ubatch)

    def of(self, request: EmbeddingRequest, cancellation: Cancellation) -> list[Tokens]:
        """The tokens of each input. Raises RequestError, ContextExceeded, CancelledError."""
        check_media(sum(request.images, ()))
        return [self.of_input(request, i, cancellation) for i in range(len(request.inputs))]

    def of_input(self, request: EmbeddingRequest, i: int, cancellation: Cancellation) -> Tokens:
        """The tokens of one input. Raises RequestError, ContextExceeded, CancelledError."""
        value, param = request.inputs[i], "documents" if request.query is not None else "input"
        name = f"'{param}[{i}]'"
        cancellation.check()
        most = max_prompt_bytes(self._vocab, self._max_tokens)
        if request.truncates and isinstance(value, str):
            value = value[:most]
        for text in (request.query, value):
            if isinstance(text, str) and len(text) > most:
                raise ContextExceeded(
                    f"{name} is too large: it has {len(text):,} characters and the {self._max_tokens:,} "
                    f"tokens of a text hold {most:,} bytes at most; cut it into pieces",
                    param,
                    n_prompt_tokens=len(text) * self._max_tokens // most,
                    n_ctx=self._max_tokens,
                )
        images = request.images[i] if request.images else ()
        tokens = self._tokens_of(request.query, value, images, cancellation)
        n_vocab = self._vocab.n_tokens
        ids = tokens if isinstance(tokens, list) else ()
        if (bad := next((t for t in ids if not 0 <= t < n_vocab), None)) is not None:
            raise RequestError(f"token id {bad} in {name} is outside the vocabulary of {n_vocab}", param)
        if not tokens:
            raise RequestError(f"{name} is empty, so there is nothing to embed", param)
        if request.truncates and isinstance(tokens, list):
            tokens = self._cut(tokens, request.query, value, cancellation)
        if len(tokens) > self._max_tokens:
            raise ContextExceeded(
                f"{name} is too large: it has {len(tokens):,} tokens and a text may have "
                f"{self._max_tokens:,}; cut it into pieces, or serve with a larger --n-ctx where the model "
                "was trained on more",
                param,
                n_prompt_tokens=len(tokens),
                n_ctx=self._max_tokens,
            )
        return tokens

    def _cut(
        self,
        tokens: list[int],
        query: str | None,
        value: str | tuple[int, ...],
        cancellation: Cancellation,
    ) -> list[int]:
        """The tokens without the end of the text, where they are too many; all if a query leaves no room."""
        if len(tokens) <= self._max_tokens:
            return tokens
        if query is not None and len(self._tokens_of(query, "", (), cancellation)) >= self._max_tokens:
            return tokens
        n_after = self._n_after(query, value, cancellation)
        return tokens[: self._max_tokens - n_after] + tokens[len(tokens) - n_after :]

    def _n_after(self, query: str | None, value: str | tuple[int, ...], cancellation: Cancellation) -> int:
        """How many tokens stand after a text: the model's last special token, or the end of its template."""
        if not isinstance(value, str):
            return 0
        vocab = self._vocab
        if query is None:
            alone = self._texts.tokens("", cancellation, add_special=True)
            return int(bool(alone) and alone[-1] in (vocab.eos, vocab.sep))
        if self._template is None:
            return int(vocab.adds_eos)
        after = self._template.rpartition("{document}")[2].replace("{query}", query)
        return len(self._texts.tokens(after, cancellation, add_special=False))

    def _tokens_of(
        self,
        query: str | None,
        value: str | tuple[int, ...],
        images: tuple[Image, ...],
        cancellation: Cancellation,
    ) -> Tokens:
        if not isinstance(value, str):
            return list(value)
        if images:
            assert self.images is not None
            return MixedInput(self.images.parts(value, images, add_special=True))
        if query is not None:
            tokenize = partial(self._texts.tokens, cancellation=cancellation, add_special=False)
            return rerank_tokens(self._vocab, tokenize, self._template, query, value)
        return self._texts.tokens(value, cancellation, add_special=True)
