"""Requests that wait for other threads to tokenize their text, read their images or compile their grammar."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

from vram_llm.engine.inputs.image_prompts import TokenizedPrompt
from vram_llm.engine.request import Request
from vram_llm.engine.sampling.structured_output import Constraint

_PATIENCE_S = 0.02  # the longest time that an idle engine waits before it looks for messages


class PendingRequest(NamedTuple):
    """A request, its prompt and its grammar. A future raises RequestError if the request is refused.

    `stop` ends the work on the prompt, which several requests may share.
    """

    request: Request
    prompt: TokenizedPrompt | Future[TokenizedPrompt]
    constraint: Future[Constraint] | None
    stop: Callable[[], None]

    @property
    def awaited(self) -> list[Future[Any]]:
        """The futures that are not done."""
        parts = (self.prompt, self.constraint)
        return [part for part in parts if isinstance(part, Future) and not part.done()]

    def results(self) -> tuple[TokenizedPrompt, Constraint | None]:
        """The prompt and the grammar. Raises RequestError."""
        prompt = self.prompt if isinstance(self.prompt, TokenizedPrompt) else self.prompt.result()
        return prompt, self.constraint.result() if self.constraint is not None else None


class PendingRequests:
    """`waiting` are the requests that wait.

    `forget` is called when there are none, to drop prompts that they shared.
    """

    def __init__(self, forget: Callable[[], None]) -> None:
        self._forget = forget
        self.waiting: list[PendingRequest] = []

    def add(self, pending: PendingRequest) -> None:
        """Add a request that waits."""
        self.waiting.append(pending)

    def ready(self, *, is_idle: bool) -> list[PendingRequest]:
        """Remove and return the requests that wait no longer; an idle engine waits a moment for one."""
        if is_idle:
            wait(
                [part for pending in self.waiting for part in pending.awaited],
                _PATIENCE_S,
                "FIRST_COMPLETED",
            )
        done = [pending for pending in self.waiting if not pending.awaited]
        for pending in done:
            self.waiting.remove(pending)
        if not self.waiting:
            self._forget()
        return done

    def cancel(self, request_id: str) -> None:
        """Drop a request; the work on its prompt ends unless another request has the same prompt."""
        for pending in [pending for pending in self.waiting if pending.request.id == request_id]:
            self.waiting.remove(pending)
            if all(other.prompt is not pending.prompt for other in self.waiting):
                pending.stop()
                self._forget()
