"""The one model behind the endpoint, and the names it answers to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2s
from pathlib import PurePath
from types import MappingProxyType

from vram_llm.chat.template import ChatTemplate
from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.model.pooling import Pooling
from vram_llm.server.config import ServerConfig
from vram_llm.server.engine_protocol import Engine
from vram_llm.server.errors import NotReady, Unavailable, UnknownModel, WrongModel
from vram_llm.server.image_inputs import RequestImages
from vram_llm.server.sampling_defaults import sampling_defaults

_EMBEDS = "makes embeddings: POST /v1/embeddings"


@dataclass(frozen=True, slots=True)
class ServingContext:
    """What every family of routes is made with. `clock` gives Unix seconds."""

    engine: Engine
    config: ServerConfig
    clock: Callable[[], float]

    def check_ready(self) -> None:
        """Raises NotReady or Unavailable unless the engine takes requests now."""
        state, detail = self.engine.state, self.engine.detail
        if state is EngineState.LOADING:
            raise NotReady(_loading(detail))
        if state is EngineState.STOPPING:
            raise Unavailable("The server is shutting down")
        if state is EngineState.DEAD:
            raise Unavailable(f"The engine has ended and will not come back: {detail or 'see the log'}")

    def model(self, name: str | None) -> ModelInfo:
        """The model a request is for, under the name that its answer gives, with its sampling by default.

        No name, or an empty one, means the model served. An alias is the answer's name too. Names of
        `adapted` mean the model with other adapters. Other names mean the model served as well, unless
        `config.strict_model` is on: then only its file's name does, with or without the suffix. Raises
        NotReady, Unavailable, UnknownModel.
        """
        self.check_ready()
        info = self.known()
        info = replace(info, sampling=tuple(sampling_defaults(info, self.config).items()))
        return self.named(info, name) if name else info

    def named(self, info: ModelInfo, name: str) -> ModelInfo:
        """`info` under the name that an answer to a request for `name` gives. Raises UnknownModel."""
        if name in self.config.aliases:
            return replace(info, name=name)
        if (using := adapted(info).get(name)) is not None:
            return replace(info, name=name, using=using)
        if self.config.strict_model and name not in self.names(info):
            raise UnknownModel(
                f"The model '{name}' does not exist here; this server has '{info.name}'", "model"
            )
        return info

    def writing_model(self, name: str | None) -> ModelInfo:
        """`model(name)`, where it writes text. Raises WrongModel besides what that raises."""
        info = self.model(name)
        if info.pooling is not None:
            does = "ranks documents: POST /v1/rerank" if info.pooling is Pooling.RANK else _EMBEDS
            raise WrongModel(f"'{info.name}' writes no text; it {does}", "model")
        return info

    def embedding_model(self, name: str | None) -> ModelInfo:
        """`model(name)`, where it makes embeddings. Raises WrongModel besides what that raises."""
        info = self.model(name)
        if info.pooling is None:
            raise WrongModel(
                f"'{info.name}' is served to write text; for embeddings serve a model made for them, or this "
                "one with --pooling",
                "model",
            )
        if info.pooling is Pooling.RANK:
            raise WrongModel(f"'{info.name}' ranks documents and makes no embeddings", "model")
        return info

    def ranking_model(self, name: str | None) -> ModelInfo:
        """`model(name)`, where it is a reranker. Raises WrongModel besides what that raises."""
        info = self.model(name)
        if info.pooling is not Pooling.RANK:
            does = "writes text" if info.pooling is None else _EMBEDS
            raise WrongModel(f"'{info.name}' is no reranker; it {does}", "model")
        return info

    def pictures(self, info: ModelInfo, kept: Mapping[str, bytes] = MappingProxyType({})) -> RequestImages:
        """What takes the images of a request in; `kept` are those of the responses it builds upon."""
        return RequestImages(info.takes_images, self.config.image_dir, dict(kept))

    def known(self) -> ModelInfo:
        """The model as last loaded, with the chat template that the server was given in place of its own.

        Raises NotReady before the first load, Unavailable if none came.
        """
        info = self.engine.info
        if info is None:
            self.check_ready()
            raise NotReady("Loading model")
        if self.config.chat_template is not None:
            return replace(info, chat_template=self.config.chat_template, tool_template=None)
        return info

    def names(self, info: ModelInfo) -> tuple[str, ...]:
        """Every name the model answers to."""
        path = PurePath(info.path)
        return (info.name, *self.config.aliases, path.name, path.stem)


def adapted(info: ModelInfo) -> dict[str, tuple[int, ...]]:
    """Names of the model with other LoRA adapters than all of the plan's: with one alone, and with none.

    What embeds does so with all of them.
    """
    if not info.adapters or info.pooling is not None:
        return {}
    return {**{name: (i,) for i, name in enumerate(info.adapters)}, f"{info.name}:base": ()}


def _loading(detail: str) -> str:
    if not detail or detail.startswith("loading"):
        return "Loading model" + detail.removeprefix("loading")
    return detail[0].upper() + detail[1:]


@lru_cache(maxsize=4)
def chat_template(source: str | None, bos_token: str, eos_token: str) -> ChatTemplate:
    """A model's template, compiled once."""
    return ChatTemplate(source, bos_token, eos_token)


def template_source(info: ModelInfo, *, tools: bool) -> str | None:
    """The source of the template for a request with or without `tools`: a file may have one for each.

    As in llama-server, the one for tools stands in for a missing other, and is left out where it does not
    compile.
    """
    for_tools = info.tool_template
    if for_tools is None or not (tools or info.chat_template is None):
        return info.chat_template
    compiles = chat_template(for_tools, info.bos_token, info.eos_token).fault == ""
    return for_tools if compiles else info.chat_template


@lru_cache(maxsize=4)
def fingerprint(info: ModelInfo) -> str:
    """OpenAI's `system_fingerprint`: changes when the model or how it is loaded does.

    It begins with "b", as llama-server's does, whose clients know llama.cpp by it.
    """
    facts = (
        info.path,
        info.using,
        info.architecture,
        info.parameters,
        info.size_bytes,
        info.n_ctx,
        info.memory,
    )
    return "b" + blake2s(repr(facts).encode(), digest_size=5).hexdigest()
