"""The state that routes share, in front of several engines: each request sees the engine that it has."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from vram_llm.engine.engine_protocol import Engine
from vram_llm.server.config import ServerConfig
from vram_llm.server.serving_context import ServingContext


@dataclass(frozen=True, slots=True)
class LeasedModel:
    """An engine that a request holds, and its model's settings."""

    engine: Engine
    config: ServerConfig


leased_model: ContextVar[LeasedModel | None] = ContextVar("leased_model", default=None)  # of the request


class FleetContext(ServingContext):
    """A ServingContext whose `engine` and `config` are those of the request that is served.

    Outside of a request for a model, `config` is the server's own, and there is no engine.
    """

    __slots__ = ("_server",)
    _server: ServerConfig

    def __init__(self, server: ServerConfig, clock: Callable[[], float]) -> None:
        object.__setattr__(self, "_server", server)
        object.__setattr__(self, "clock", clock)

    @property
    def engine(self) -> Engine:
        """The engine that the request holds. Raises LookupError if it holds none."""
        leased = leased_model.get()
        if leased is None:
            raise LookupError("this route was given no engine: it is missing in route_kinds")
        return leased.engine

    @property
    def config(self) -> ServerConfig:
        """The settings of the request's model."""
        leased = leased_model.get()
        return self._server if leased is None else leased.config
