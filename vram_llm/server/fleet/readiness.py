"""The phase of a fleet's server: it loads the models of the start, it serves, it stops."""

import time
from dataclasses import dataclass

from vram_llm.server.errors import NotReady, Unavailable
from vram_llm.server.metrics.status_reply import EnginePhase


@dataclass(slots=True)
class Readiness:
    """Whether the server accepts requests. Requests for a model that is not loaded wait for it."""

    phase: EnginePhase = "loading"
    reason: str | None = "loading the models of the start"
    ready_at: float | None = None  # of time.monotonic

    def become_ready(self) -> None:
        """The models of the start are loaded, or have failed."""
        if self.phase == "loading":
            self.phase, self.reason, self.ready_at = "ready", None, time.monotonic()

    def stop(self) -> None:
        """The server refuses new requests."""
        self.phase, self.reason = "stopping", "shutting down"

    @property
    def uptime_s(self) -> float | None:
        """Time since it became ready."""
        return None if self.ready_at is None else time.monotonic() - self.ready_at

    def check_ready(self) -> None:
        """Raises NotReady or Unavailable while the server is not ready for requests."""
        if self.phase == "loading":
            raise NotReady("Loading the models of the start")
        if self.phase != "ready":
            raise Unavailable("The server is shutting down")
