"""Reads a fleet's configuration again, and changes only those models that it changes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from vram_llm.engine.supervisor import NOTICES
from vram_llm.errors import RequestError, VramLLMError
from vram_llm.planner.fleet.types import FleetPlan
from vram_llm.server.api_keys import STRANGER, current_key
from vram_llm.server.config import ServerConfig
from vram_llm.server.errors import MissingScope
from vram_llm.server.fleet.routed_models import FleetSettings, RoutedModels
from vram_llm.server.keys_file import KeyScope

log = logging.getLogger(NOTICES)

ReadSettings = Callable[[FleetPlan], FleetSettings]
"""Reads the configuration and plans it; the plan is the one in use. Called in a thread.

Raises BadConfig with the file's name and line, and the errors of planning.
"""

ApplySettings = Callable[[FleetSettings], Awaitable[None]]
"""Goes on with other settings. If it raises, those in use stay."""


class Reloader:
    """One reading at a time. `on_reload` is called with the names of models that are new or gone."""

    def __init__(
        self,
        models: RoutedModels,
        config: ServerConfig,
        *,
        read: ReadSettings | None,
        apply: ApplySettings,
        on_reload: Callable[[frozenset[str]], None] = lambda _: None,
    ) -> None:
        self._models = models
        self._config = config
        self._read = read
        self._apply = apply
        self._on_reload = on_reload
        self._turn = asyncio.Lock()

    def check_allowed(self) -> None:
        """Raises MissingScope for a key without the scope `admin`, and on a server that all may use."""
        config, key = self._config, current_key.get()
        if key is STRANGER or (config.insecure and not config.needs_key):
            raise MissingScope(
                "On a server that is open to everybody nobody may load, unload or reload; set an API key"
            )
        if KeyScope.ADMIN not in key.scopes:
            raise MissingScope(f"The API key '{key.name}' lacks the scope '{KeyScope.ADMIN}'")

    async def reload(self) -> None:
        """Read the configuration and go on with it. Does not wait until models that are gone have ended.

        Raises RequestError with the reason if it cannot be used; then nothing changes.
        """
        if self._read is None:
            raise RequestError("This server was started without a configuration that can be read again")
        async with self._turn:
            before = self._models.settings
            try:
                settings = await asyncio.to_thread(self._read, before.plan)
                if (settings.plan, settings.configs) != (before.plan, before.configs):
                    await self._apply(settings)
            except VramLLMError as error:
                log.error("the configuration stays as it is: %s", error)
                raise RequestError(f"The configuration stays as it is: {error}") from error
            self._models.settings = settings  # after the fleet has the models, which routes ask it for
            now = frozenset(model.spec.name for model in settings.plan.models)
            then = frozenset(model.spec.name for model in before.plan.models)
            log.info("%s", _outcome(before, settings))
            for note in settings.notes:
                log.warning("%s", note)
            self._on_reload(then - now)


def _outcome(before: FleetSettings, after: FleetSettings) -> str:
    """A sentence on the models that a reading has changed."""
    old = {model.spec.name: model for model in before.plan.models}
    new = {model.spec.name: model for model in after.plan.models}
    moved = [name for name in new.keys() & old.keys() if new[name] != old[name]]
    answered = [name for name in new.keys() & old.keys() if after.configs[name] != before.configs[name]]
    parts = [
        f"{verb} {', '.join(sorted(names))}"
        for verb, names in (
            ("new:", new.keys() - old.keys()),
            ("gone:", old.keys() - new.keys()),
            ("with another plan:", moved),
            ("with other settings of answers:", answered),
        )
        if names
    ]
    return "the configuration was read again; " + ("; ".join(parts) or "nothing has changed")
