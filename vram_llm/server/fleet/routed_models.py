"""The models of a fleet by all their names, and the model that a request means."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from vram_llm.engine.model_info import ModelInfo
from vram_llm.errors import UnknownModel
from vram_llm.model.pooling import Pooling
from vram_llm.planner.fleet.types import FleetModelSpec, FleetPlan
from vram_llm.planner.types import CompanionKind, Plan
from vram_llm.server.api_keys import ApiKey
from vram_llm.server.config import ServerConfig
from vram_llm.server.errors import ModelNotAllowed, WrongModel
from vram_llm.server.fleet.ports import ServedFleet
from vram_llm.server.fleet.route_kinds import RouteKind
from vram_llm.server.serving_context import adapters_by_name, check_embeds, check_generates, check_ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """The outcome of reading a fleet's configuration: the plan, and each model's settings by its name.

    `notes` are sentences for the log once it is in use.
    """

    plan: FleetPlan
    configs: Mapping[str, ServerConfig]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedModel:
    """A model of the fleet. `info` is that of its last load; None: it was never loaded."""

    spec: FleetModelSpec
    plan: Plan  # of its first replica
    n_replicas: int
    config: ServerConfig
    info: ModelInfo | None

    @property
    def name(self) -> str:
        """The name in the fleet."""
        return self.spec.name

    @property
    def pooling(self) -> Pooling | None:
        """The pooling of embeddings; None: it generates text."""
        return self.plan.context.pooling

    @property
    def takes_images(self) -> bool:
        """Whether it has a projector of images; before its first load, any projector."""
        if self.info is not None:
            return self.info.takes_images
        return any(companion.kind is CompanionKind.MMPROJ for companion in self.plan.companions)

    @property
    def takes_audio(self) -> bool:
        """Whether it has a projector of sound; unknown, and False, before its first load."""
        return self.info is not None and self.info.takes_audio

    @property
    def shown_names(self) -> tuple[str, ...]:
        """Names under which lists show it: its name, its aliases, its adapters."""
        adapters = () if self.info is None else adapters_by_name(self.info)
        return tuple(dict.fromkeys((self.name, *self.spec.aliases, *adapters)))

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names of its file, which requests may use too."""
        path = PurePath(self.plan.model.path)
        return (path.name, path.stem)

    def check_serves(self, kind: RouteKind) -> None:
        """Raises WrongModel if routes of `kind` are not for this model."""
        check = {
            RouteKind.TEXT: check_generates,
            RouteKind.EMBEDDINGS: check_embeds,
            RouteKind.RANKS: check_ranks,
        }.get(kind)
        if check is not None:
            check(self.name, self.pooling)

    def serves(self, kind: RouteKind) -> bool:
        """Whether routes of `kind` are for this model."""
        try:
            self.check_serves(kind)
        except WrongModel:
            return False
        return True


class RoutedModels:
    """The models as they are now. `settings` are replaced when the configuration is read again."""

    def __init__(self, fleet: ServedFleet, settings: FleetSettings) -> None:
        self._fleet = fleet
        self.settings = settings

    def __iter__(self) -> Iterator[RoutedModel]:
        return (self.named(packed.spec.name) for packed in self.settings.plan.models)

    def named(self, name: str) -> RoutedModel:
        """The model of this very name. Raises KeyError."""
        packed = self.settings.plan[name]
        try:
            info = self._fleet.snapshot(name).info
        except UnknownModel:  # it is about to be added
            info = None
        return RoutedModel(
            spec=packed.spec,
            plan=packed.replicas[0].plan,
            n_replicas=len(packed.replicas),
            config=self.settings.configs[name],
            info=info,
        )

    def find(self, asked: str | None, kind: RouteKind, key: ApiKey) -> RoutedModel:
        """The model for a request that names `asked`, or none.

        Without a name: the first model that serves the kind of route and that the key may use. Raises
        UnknownModel, ModelNotAllowed, WrongModel.
        """
        if not asked:
            return self._default(kind, key)
        model, shown = self.resolve(asked, key)
        if not key.may_use(shown):
            raise ModelNotAllowed(f"The API key '{key.name}' may not use the model '{shown}'", "model")
        model.check_serves(kind)
        return model

    def resolve(self, asked: str, key: ApiKey) -> tuple[RoutedModel, str]:
        """A model, and the name of it that answers show. Raises UnknownModel.

        Names come before aliases, these before adapters, these before names of files.
        """
        models = list(self)
        for model in models:
            if model.name == asked:
                return model, asked
        for model in models:
            if asked in model.shown_names:
                return model, asked
        for model in models:
            if asked in model.file_names:
                return model, model.name
        raise UnknownModel(f"The model '{asked[:200]}' does not exist here; {self._names_for(key)}", "model")

    def _default(self, kind: RouteKind, key: ApiKey) -> RoutedModel:
        allowed = [model for model in self if key.may_use(model.name)]
        if not allowed:
            raise ModelNotAllowed(f"The API key '{key.name}' may use no model by its name", "model")
        for model in allowed:
            if model.serves(kind):
                return model
        allowed[0].check_serves(kind)
        return allowed[0]

    def _names_for(self, key: ApiKey) -> str:
        names = [f"'{name}'" for model in self for name in model.shown_names if key.may_use(name)]
        return f"this server has {', '.join(names)}" if names else "this key may use none"
