"""When a request came."""

from contextvars import ContextVar

arrived_at: ContextVar[float | None] = ContextVar("arrived_at", default=None)
"""The time at which the head of the request that is served was read, by time.monotonic()."""
