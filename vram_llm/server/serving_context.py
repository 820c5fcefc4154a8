"""The served model and its names."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2s
from pathlib import PurePath
from types import MappingProxyType

from vram_llm.chat.template import ChatTemplate
from vram_llm.engine.adapters import Adapters
from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.engine.request import EmbeddingRequest
from vram_llm.engine.wire import Embedded
from vram_llm.errors import RequestTimeout, UnknownModel
from vram_llm.model.pooling import Pooling
from vram_llm.server.api_keys import STRANGER, current_key
from vram_llm.server.config import ServerConfig
from vram_llm.server.errors import ModelNotAllowed, NotReady, Unavailable, WrongModel
from vram_llm.server.image_inputs import RequestImages
from vram_llm.server.request_record import record_of_request

_EMBEDS = "makes embeddings: POST /v1/embeddings"


@dataclass(frozen=True, slots=True)
class ServingContext:
    """The state that all routes share. `clock` gives Unix seconds."""

    engine: Engine
    config: ServerConfig
    clock: Callable[[], float]

    @property
    def is_asked_by_stranger(self) -> bool:
        """Whether the request has no key of this server, or anybody may use it from elsewhere."""
        config = self.config
        return current_key.get() is STRANGER or (config.insecure and not config.needs_key)

    def check_accepts(self) -> None:
        """Raises NotReady or Unavailable if requests are refused. During a restart they are queued."""
        if self.engine.state is not EngineState.LOADING or self.engine.info is None:
            self.check_ready()

    def check_ready(self) -> None:
        """Raises NotReady or Unavailable unless there is an engine that works."""
        state, detail = self.engine.state, self.engine.detail
        if state is EngineState.LOADING:
            raise NotReady(_loading(detail))
        if state is EngineState.STOPPING:
            raise Unavailable("The server is shutting down")
        if state is EngineState.DEAD:
            raise Unavailable(f"The engine has ended and will not come back: {detail or 'see the log'}")

    def model(self, name: str | None) -> ModelInfo:
        """The model for a request, with the name for its answer.

        No name, or an empty one, means the served model. An alias is also the name in the answer. Names of
        `adapters_by_name` mean other adapters. Any other name means the served model too, unless
        `config.strict_model` is on: then only its own names (see `names`) are accepted. Raises NotReady,
        Unavailable, UnknownModel, ModelNotAllowed.
        """
        self.check_accepts()
        info = self.loaded_model()
        if info.pooling is None and self.engine.adapters != info.adapters_used:
            info = replace(info, adapters_used=self.engine.adapters)
        info = self.named(info, name) if name else info
        key = current_key.get()
        if not key.may_use(info.name):
            raise ModelNotAllowed(f"The API key '{key.name}' may not use the model '{info.name}'", "model")
        record_of_request().model = info.name
        return info

    def named(self, info: ModelInfo, name: str) -> ModelInfo:
        """`info` with the name for answers to requests for `name`. Raises UnknownModel."""
        if name in self.config.aliases:
            return replace(info, name=name)
        if (numbers := adapters_by_name(info).get(name)) is not None:
            return replace(info, name=name, adapters_used=numbers)
        if self.config.strict_model and name not in self.names(info):
            raise UnknownModel(
                f"The model '{name}' does not exist here; this server has '{info.name}'", "model"
            )
        return info

    def generation_model(self, name: str | None) -> ModelInfo:
        """`model(name)`, if it generates text. Raises WrongModel, and the errors of `model`."""
        info = self.model(name)
        check_generates(info.name, info.pooling)
        return info

    def embedding_model(self, name: str | None) -> ModelInfo:
        """`model(name)`, if it makes embeddings. Raises WrongModel, and the errors of `model`."""
        info = self.model(name)
        check_embeds(info.name, info.pooling)
        return info

    def reranking_model(self, name: str | None) -> ModelInfo:
        """`model(name)`, if it is a reranker. Raises WrongModel, and the errors of `model`."""
        info = self.model(name)
        check_ranks(info.name, info.pooling)
        return info

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        """The engine's answer, which counts for the key that asks.

        Raises RequestTimeout, and the errors of the engine.
        """
        key, limit_s, record = current_key.get(), self.config.request_timeout_s, record_of_request()
        record.note_submission(len(request.inputs), request.inputs)
        try:
            async with asyncio.timeout(limit_s or None):
                weight = key.usage.limits.weight
                asked = replace(request, client=key.name, weight=weight, arrived_at=record.began_at)
                answer = await self.engine.embed(asked)
        except TimeoutError:
            raise RequestTimeout(
                f"The time for this request, {limit_s:g} s, was over before it was done"
            ) from None
        key.usage.spend(sum(answer.n_tokens))
        record.note_prompt(0, sum(answer.n_tokens), 0)
        record.finish_reasons.add("stop")
        return answer

    def request_images(
        self, info: ModelInfo, kept: Mapping[str, bytes] = MappingProxyType({})
    ) -> RequestImages:
        """A collector of a request's images. `kept` are the images of earlier responses it builds upon."""
        return RequestImages(
            info.takes_images, self.config.image_dir, dict(kept), takes_audio=info.takes_audio
        )

    def loaded_model(self) -> ModelInfo:
        """The model as last loaded, with the server's chat template if one was configured.

        Raises NotReady before the first load, Unavailable if the load failed.
        """
        info = self.engine.info
        if info is None:
            self.check_ready()
            raise NotReady("Loading model")
        return with_template(info, self.config)

    def names(self, info: ModelInfo) -> tuple[str, ...]:
        """All names of the model."""
        path = PurePath(info.path)
        return (info.name, *self.config.aliases, path.name, path.stem)


def with_template(info: ModelInfo, config: ServerConfig) -> ModelInfo:
    """`info` with the chat template of the settings, if they have one."""
    if config.chat_template is None:
        return info
    return replace(info, chat_template=config.chat_template, tool_template=None)


def check_generates(name: str, pooling: Pooling | None) -> None:
    """Raises WrongModel if a model with this pooling does not write text."""
    if pooling is not None:
        does = "ranks documents: POST /v1/rerank" if pooling is Pooling.RANK else _EMBEDS
        raise WrongModel(f"'{name}' writes no text; it {does}", "model")


def check_embeds(name: str, pooling: Pooling | None) -> None:
    """Raises WrongModel if a model with this pooling does not make embeddings."""
    if pooling is None:
        raise WrongModel(
            f"'{name}' is served to write text; for embeddings serve a model made for them, or this "
            "one with --pooling",
            "model",
        )
    if pooling is Pooling.RANK:
        raise WrongModel(f"'{name}' ranks documents and makes no embeddings", "model")


def check_ranks(name: str, pooling: Pooling | None) -> None:
    """Raises WrongModel if a model with this pooling is not a reranker."""
    if pooling is not Pooling.RANK:
        does = "writes text" if pooling is None else _EMBEDS
        raise WrongModel(f"'{name}' is not a reranker; it {does}", "model")


def adapters_by_name(info: ModelInfo) -> dict[str, Adapters]:
    """Names that mean the model with other LoRA adapters: one adapter alone, or no adapter.

    An adapter has its planned scale, or 1 if that is 0.
    An embedding model always uses all adapters.
    """
    if not info.adapters or info.pooling is not None:
        return {}
    scales = [adapter.scale or 1.0 for adapter in info.adapter_files] or [1.0] * len(info.adapters)
    alone = {name: ((i, scales[i]),) for i, name in enumerate(info.adapters)}
    return {**alone, f"{info.name}:base": ()}


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

    As in llama-server, the tool template replaces a missing default one. It is ignored if it does not
    compile.
    """
    for_tools = info.tool_template
    if for_tools is None or not (tools or info.chat_template is None):
        return info.chat_template
    compiles = chat_template(for_tools, info.bos_token, info.eos_token).fault == ""
    return for_tools if compiles else info.chat_template


def fingerprint(info: ModelInfo) -> str:
    """OpenAI's `system_fingerprint`: it changes with the model and with its placement.

    It begins with "b" as llama-server's does: clients recognize llama.cpp by that.
    """
    facts = (
        info.path,
        info.adapters_used,
        info.architecture,
        info.parameters,
        info.size_bytes,
        info.n_ctx,
        info.memory,
    )
    return "b" + blake2s(repr(facts).encode(), digest_size=5).hexdigest()
