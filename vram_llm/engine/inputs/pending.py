"""Requests whose images are not read yet, or whose grammar is not ready: both happen in other threads."""

from concurrent.futures import Future, wait
from typing import Any, NamedTuple

from vram_llm.engine.inputs.image_prompts import Pictures, Prompt
from vram_llm.engine.request import Request
from vram_llm.engine.sampling.structured_output import Constraint

_PATIENCE_S = 0.02  # at most, that an idle engine waits before it looks for messages


class Prepared(NamedTuple):
    """A request and what it waited for. Either raises RequestError where the request cannot be served."""

    request: Request
    prompt: Prompt | Future[Prompt]
    constraint: Future[Constraint] | None

    @property
    def awaited(self) -> list[Future[Any]]:
        """What is still to come."""
        parts = (self.prompt, self.constraint)
        return [part for part in parts if isinstance(part, Future) and not part.done()]

    def results(self) -> tuple[Prompt, Constraint | None]:
        """The prompt and the grammar. Raises RequestError."""
        prompt = self.prompt if isinstance(self.prompt, Prompt) else self.prompt.result()
        return prompt, self.constraint.result() if self.constraint is not None else None


class Preparing:
    """Those that wait; `pictures` reads the images, where there are any."""

    def __init__(self, pictures: Pictures | None) -> None:
        self._pictures = pictures
        self._waiting: list[Prepared] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(
        self, request: Request, prompt: Prompt | Future[Prompt], constraint: Future[Constraint] | None
    ) -> None:
        """Take one in."""
        self._waiting.append(Prepared(request, prompt, constraint))

    def ready(self, *, is_idle: bool) -> list[Prepared]:
        """Those that wait for nothing any more, taken out; an idle engine waits for one a little."""
        if is_idle:
            wait([part for each in self._waiting for part in each.awaited], _PATIENCE_S, "FIRST_COMPLETED")
        done = [each for each in self._waiting if not each.awaited]
        for each in done:
            self._waiting.remove(each)
        if self._pictures is not None and not self._waiting:
            self._pictures.forget()
        return done

    def cancel(self, request_id: str) -> None:
        """Drop a request; images that nobody else waits for are not read."""
        for each in [each for each in self._waiting if each.request.id == request_id]:
            self._waiting.remove(each)
            is_last = all(other.prompt is not each.prompt for other in self._waiting)
            if self._pictures is not None and isinstance(each.prompt, Future) and is_last:
                self._pictures.give_up(each.prompt)
