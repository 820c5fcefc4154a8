"""Requests that wait for other threads to read their images or compile their grammar."""

from concurrent.futures import Future, wait
from typing import Any, NamedTuple

from vram_llm.engine.inputs.image_prompts import ImagePrompts, TokenizedPrompt
from vram_llm.engine.request import Request
from vram_llm.engine.sampling.structured_output import Constraint

_PATIENCE_S = 0.02  # the longest time that an idle engine waits before it looks for messages


class PendingRequest(NamedTuple):
    """A request, its prompt and its grammar. A future raises RequestError if the request is refused."""

    request: Request
    prompt: TokenizedPrompt | Future[TokenizedPrompt]
    constraint: Future[Constraint] | None

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
    """The requests that wait; `image_prompts` reads their images."""

    def __init__(self, image_prompts: ImagePrompts | None) -> None:
        self._image_prompts = image_prompts
        self._waiting: list[PendingRequest] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(
        self,
        request: Request,
        prompt: TokenizedPrompt | Future[TokenizedPrompt],
        constraint: Future[Constraint] | None,
    ) -> None:
        """Add a request that waits."""
        self._waiting.append(PendingRequest(request, prompt, constraint))

    def ready(self, *, is_idle: bool) -> list[PendingRequest]:
        """Remove and return the requests that wait no longer; an idle engine waits a moment for one."""
        if is_idle:
            wait(
                [part for pending in self._waiting for part in pending.awaited],
                _PATIENCE_S,
                "FIRST_COMPLETED",
            )
        done = [pending for pending in self._waiting if not pending.awaited]
        for pending in done:
            self._waiting.remove(pending)
        if self._image_prompts is not None and not self._waiting:
            self._image_prompts.forget()
        return done

    def cancel(self, request_id: str) -> None:
        """Drop a request; its images are not read unless another request has the same prompt."""
        for pending in [pending for pending in self._waiting if pending.request.id == request_id]:
            self._waiting.remove(pending)
            is_last = all(other.prompt is not pending.prompt for other in self._waiting)
            if self._image_prompts is not None and isinstance(pending.prompt, Future) and is_last:
                self._image_prompts.cancel(pending.prompt)
