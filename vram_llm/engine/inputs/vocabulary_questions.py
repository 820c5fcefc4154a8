"""Answers questions about the vocabulary in other threads: the tokens of a text, the spelling of tokens."""

import logging
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial

from vram_llm.engine import wire
from vram_llm.engine.inputs.text_tokenizer import Cancellation, TextTokenizer, TokenizerThreads
from vram_llm.errors import RequestError
from vram_llm.llama.vocab import Vocab

log = logging.getLogger(__name__)
_LOOK_TOKENS = 1 << 12  # spelled between two looks at cancellation
CountTokens = Callable[..., list[int]]


class VocabularyQuestions:
    """`send` takes the answers, from any thread. `count` counts the tokens of prompts with images."""

    def __init__(
        self,
        vocab: Vocab,
        threads: TokenizerThreads,
        send: Callable[[wire.FromEngine], None],
        count: CountTokens | None = None,
    ) -> None:
        self._vocab = vocab
        self._tokenizer = TextTokenizer(vocab)
        self._threads = threads
        self._send = send
        self._count = count
        self._open: dict[str, Cancellation] = {}

    def ask(self, question: wire.Tokenize | wire.Detokenize) -> None:
        """Answer `question` soon."""
        cancellation = self._open[question.id] = Cancellation()
        self._threads.submit(partial(self._settle, question), cancellation)

    def cancel(self, request_id: str) -> None:
        """Drop a question. An unknown id is no error."""
        if (cancellation := self._open.pop(request_id, None)) is not None:
            cancellation.is_requested = True

    def _settle(self, question: wire.Tokenize | wire.Detokenize, cancellation: Cancellation) -> None:
        try:
            cancellation.check()
            answer = self._answer(question, cancellation)
        except CancelledError:
            return
        except RequestError as error:
            answer = wire.Tokens(question.id, [], str(error), error.param)
        except Exception as error:  # the client waits for an answer
            log.exception("A question about the vocabulary failed")
            answer = wire.Tokens(question.id, [], f"the engine failed on this text: {error!r}")
        self._open.pop(question.id, None)
        self._send(answer)

    def _answer(
        self, question: wire.Tokenize | wire.Detokenize, cancellation: Cancellation
    ) -> wire.Tokens | wire.Pieces:
        if isinstance(question, wire.Detokenize):
            pieces: list[bytes] = []
            for start in range(0, len(question.tokens), _LOOK_TOKENS):
                cancellation.check()
                pieces += map(self._vocab.spelling, question.tokens[start : start + _LOOK_TOKENS])
            return wire.Pieces(question.id, pieces)
        if question.images:
            return wire.Tokens(question.id, self._count_with_images(question))
        tokens = self._tokenizer.tokens(
            question.text,
            cancellation,
            add_special=question.add_special,
            parse_special=question.parse_special,
        )
        return wire.Tokens(question.id, tokens)

    def _count_with_images(self, question: wire.Tokenize) -> list[int]:
        if self._count is None:
            raise RequestError("this model takes no images: it makes embeddings")
        return self._count(question.text, question.images, add_special=question.add_special)
