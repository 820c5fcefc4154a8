"""One choice of a native reply: its events become chunks, and at the end the whole object."""

from dataclasses import dataclass, field
from typing import Any

from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import FinishReason, Likelihood, Request, TokenEvent
from vram_llm.server.native.fields import NativeFields
from vram_llm.server.native.probabilities import probabilities
from vram_llm.server.native.settings import generation_settings
from vram_llm.server.timings import ChoiceClock


@dataclass(slots=True)
class NativeChoice:
    """The state of one choice while it is generated. Its clock observes events before it does."""

    index: int
    request: Request
    fields: NativeFields
    info: ModelInfo
    clock: ChoiceClock
    _texts: list[str] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)
    _likelihoods: list[Likelihood] = field(default_factory=list)
    _n_tokens: int = 0
    _n_prompt: int = 0
    _has_new_line: bool = False
    _slot: int = -1

    def observe(self, event: TokenEvent) -> None:
        """Take in an event."""
        self._n_prompt = event.prompt_tokens or self._n_prompt
        self._slot = self._slot if event.slot is None else event.slot
        self._n_tokens += len(event.token_ids)
        self._has_new_line |= "\n" in event.text
        if not self.fields.stream:
            self._texts.append(event.text)
            self._tokens += event.token_ids
            self._likelihoods += event.logprobs

    def partials(self, event: TokenEvent) -> list[dict[str, Any]]:
        """Chunks for an event's text and tokens. With probabilities each chunk has one token."""
        if not (event.text or event.token_ids):
            return []
        if not event.logprobs:
            return [self.partial(event.text, event.token_ids)]
        last = len(event.token_ids) - 1
        chunks = []
        for i, token in enumerate(event.token_ids):
            chunk = self.partial(event.text if i == last else "", (token,))
            if i < len(event.logprobs):  # a token that ends the answer has none
                chunk["completion_probabilities"] = self._probabilities(event.logprobs[i : i + 1])
            chunks.append(chunk)
        return chunks

    def partial(self, text: str, tokens: tuple[int, ...]) -> dict[str, Any]:
        """A chunk of the stream."""
        chunk: dict[str, Any] = {
            "index": self.index,
            "content": text,
            "tokens": tokens,
            "stop": False,
            "id_slot": self._slot,
            "tokens_predicted": self._n_tokens,
            "tokens_evaluated": self._n_prompt,
        }
        if self.fields.timings_per_token:
            chunk["timings"] = self.clock.timings()
        return chunk

    def final(self, last: TokenEvent) -> dict[str, Any]:
        """The object after the choice's last event; in a stream without its text."""
        n_tokens, fields = last.completion_tokens, self.fields
        whole: dict[str, Any] = {
            "index": self.index,
            "content": "".join(self._texts),
            "tokens": self._tokens if fields.return_tokens else [],
            "id_slot": self._slot,
            "stop": True,
            "model": self.info.name,
            "tokens_predicted": n_tokens,
            "tokens_evaluated": last.prompt_tokens,
            "generation_settings": generation_settings(fields, self.request),
            "prompt": last.prompt or "",
            "has_new_line": self._has_new_line,
            "truncated": self._is_truncated(last),
            "stop_type": _stop_type(last),
            "stopping_word": last.stop or "",
            "tokens_cached": last.prompt_tokens + max(n_tokens - 1, 0),
            "timings": self.clock.timings(),
        }
        if self._likelihoods:
            whole["completion_probabilities"] = self._probabilities(self._likelihoods)
        return nested_values(fields.response_fields, whole) if fields.response_fields else whole

    def _probabilities(self, likelihoods: Any) -> list[dict[str, Any]]:
        return probabilities(likelihoods, post_sampling=self.request.post_sampling)

    def _is_truncated(self, last: TokenEvent) -> bool:
        """Whether the context ended the answer."""
        is_full = last.prompt_tokens + last.completion_tokens >= self.info.n_ctx
        return is_full and last.finish_reason is FinishReason.LENGTH


def nested_values(paths: list[str], whole: dict[str, Any]) -> dict[str, Any]:
    """The values at `paths` ("generation_settings/n_predict"), by their whole paths; missing ones are left
    out."""
    found = {}
    for path in paths:
        value: Any = whole
        for name in path.split("/"):
            value = value.get(name, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            found[path] = value
    return found


_MISSING = object()


def _stop_type(last: TokenEvent) -> str:
    if last.finish_reason is FinishReason.LENGTH:
        return "limit"
    return "eos" if last.stop is None else "word"
