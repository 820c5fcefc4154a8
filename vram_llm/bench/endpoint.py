"""The route that a load is sent to, and the bodies of its requests."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

Message = dict[str, Any]
PromptContent = str | list[int] | list[Message]
"""A text, token ids (only of a completion), or the messages of a chat."""


@dataclass(frozen=True, slots=True)
class LoadPrompt:
    """A prompt of the load. `n_tokens` is None where only the server's count will tell."""

    content: PromptContent
    n_tokens: int | None
    n_output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A path of the server, and what each request says there. `extra` are further fields of the body."""

    path: str
    model: str
    ignore_eos: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_chat(self) -> bool:
        """Whether its requests have messages."""
        return self.path.endswith("chat/completions")

    def body(self, prompt: LoadPrompt) -> bytes:
        """The body of a streamed request, with the fields that `vllm bench serve` sends."""
        content: Any = prompt.content
        fields: dict[str, Any] = {"model": self.model}
        if self.is_chat:
            fields["messages"] = (
                [{"role": "user", "content": content}] if isinstance(content, str) else content
            )
            fields["max_completion_tokens"] = prompt.n_output
        else:
            fields |= {"prompt": content, "max_tokens": prompt.n_output}
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.ignore_eos:
            fields["ignore_eos"] = True
        return msgspec.json.encode(fields | dict(self.extra))
