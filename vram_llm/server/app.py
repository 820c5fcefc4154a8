"""The HTTP application. Each family of routes is a file of its own and is added here."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, FastAPI

from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.model_info import EngineState
from vram_llm.server.anthropic.errors import anthropic_response
from vram_llm.server.anthropic.fields import CountFields, MessagesFields
from vram_llm.server.anthropic.routes import anthropic_router
from vram_llm.server.api_keys import Keyring
from vram_llm.server.application import bare_app
from vram_llm.server.chat import chat_router
from vram_llm.server.completions import completions_router
from vram_llm.server.config import ServerConfig
from vram_llm.server.cors import Cors
from vram_llm.server.embeddings import EmbeddingFields, embeddings_router, native_embeddings_router
from vram_llm.server.health import HealthFacts, health_router, root_router, version_router
from vram_llm.server.host_check import HostCheckMiddleware
from vram_llm.server.lora_routes import LoraBody, lora_router
from vram_llm.server.metrics.exposition import metrics_router
from vram_llm.server.metrics.slots import slots_router
from vram_llm.server.metrics.status import status_router
from vram_llm.server.metrics.system_readings import SystemReadings
from vram_llm.server.middleware import AuthAndLimitsMiddleware, RequestQueue
from vram_llm.server.models import models_router
from vram_llm.server.native.fields import CompletionFields, InfillFields
from vram_llm.server.native.routes import native_router
from vram_llm.server.normalize_request import NormalizeRequestMiddleware
from vram_llm.server.openapi import document
from vram_llm.server.props import PropsFields, changing_props_router, props_router
from vram_llm.server.replay import ReplayMiddleware
from vram_llm.server.request_log import RequestLogMiddleware
from vram_llm.server.rerank import RerankFields, rerank_router
from vram_llm.server.responses.fields import ResponseFields
from vram_llm.server.responses.routes import responses_router
from vram_llm.server.resumable.middleware import ResumableMiddleware
from vram_llm.server.resumable.routes import LookupFields, resumable_router
from vram_llm.server.resumable.streams import ResumableStreams
from vram_llm.server.routes import prefixed
from vram_llm.server.schemas import ChatCompletionRequest, CompletionRequest
from vram_llm.server.serving_context import ServingContext
from vram_llm.server.slot_actions import SlotFields, slot_actions_router
from vram_llm.server.tokenizer_routes import (
    ApplyTemplateFields,
    DetokenizeFields,
    TokenizeFields,
    tokens_router,
)
from vram_llm.server.transcriptions import TranscriptionFields, transcriptions_router
from vram_llm.server.ui.page import Page
from vram_llm.server.ui.plan_fields import PlanFields
from vram_llm.server.ui.ports import Ui
from vram_llm.server.ui.router import dashboard_routers

_DEFAULT = ServerConfig()
BODIES = (
    ChatCompletionRequest, CompletionRequest, CompletionFields, InfillFields, ResponseFields, MessagesFields,
    CountFields, TokenizeFields, DetokenizeFields, ApplyTemplateFields, EmbeddingFields, RerankFields,
    SlotFields, LoraBody, PlanFields, TranscriptionFields, LookupFields, PropsFields,
)  # fmt: skip
_MESSAGES = ("/messages", "/messages/count_tokens")
_REFUSALS = {prefix + path: anthropic_response for prefix in ("", "/v1") for path in _MESSAGES}


def create_app(
    engine: Engine,
    config: ServerConfig = _DEFAULT,
    *,
    keyring: Keyring | None = None,
    hosts: frozenset[str] | None = None,
    clock: Callable[[], float] = time.time,
    lifespan: Callable[[FastAPI], Any] | None = None,
    ui: Ui | None = None,
) -> FastAPI:
    """The OpenAI endpoint in front of `engine`, which the caller starts and stops.

    Every path under `/v1` is also served without that prefix; `/completions` is llama-server's own then.
    With API keys, every path except /, /health, /v1/health and the dashboard's files below /ui requires one,
    as a bearer token or as x-api-key; `keyring`
    of None has those of `config`. `hosts` are the accepted host names in addition to loopback addresses; None
    accepts any name. `clock` gives Unix seconds. `ui` is what the dashboard needs; None: it has neither a
    planner nor a log. Raises BadKeysFile.
    """
    app = bare_app(lifespan)
    streams = ResumableStreams(clock)
    add_limits(app, engine, config, keyring=keyring, hosts=hosts, streams=streams)
    serving = ServingContext(engine, config, clock)
    page = Page()
    add_model_routes(app, serving)
    add_routes(app, root_router(serving, page, partial(_root_facts, serving)), version_router())
    add_routes(app, *dashboard_routers(serving, ui or Ui(), page))
    add_twice(app, health_router(serving, _health(serving)), documented="")
    add_twice(app, models_router(serving))
    add_twice(app, resumable_router(streams))
    add_routes(app, changing_props_router(config))
    readings = SystemReadings()
    add_routes(
        app, props_router(serving), status_router(serving, readings), metrics_router(serving, readings),
        slots_router(serving),
    )  # fmt: skip
    app.openapi = partial(document, app, BODIES)  # type: ignore[method-assign]  # as FastAPI says
    return app


def _health(serving: ServingContext) -> HealthFacts:
    return HealthFacts(
        is_ready=lambda: serving.engine.state is EngineState.READY,
        check_ready=serving.check_ready,
        warnings=lambda: serving.engine.warnings,
    )


def _root_facts(serving: ServingContext) -> dict[str, object]:
    info = serving.engine.info
    return {"status": serving.engine.state.value, "model": None if info is None else info.name}


def add_limits(
    app: FastAPI,
    queue: RequestQueue,
    config: ServerConfig,
    *,
    keyring: Keyring | None,
    hosts: frozenset[str] | None,
    streams: ResumableStreams,
) -> None:
    """Add the middleware around all routes: log, keys, limits, host names, forms of requests.

    Middleware that is added earlier is inside of it. See create_app.
    """
    app.add_middleware(ResumableMiddleware, streams=streams)
    app.add_middleware(NormalizeRequestMiddleware, max_body_bytes=config.max_body_bytes)
    app.add_middleware(ReplayMiddleware)
    if hosts is not None:
        app.add_middleware(HostCheckMiddleware, names=hosts)
    app.add_middleware(
        AuthAndLimitsMiddleware,
        queue=queue,
        keyring=keyring or Keyring(config),
        max_body_bytes=config.max_body_bytes,
        refusals=_REFUSALS,
    )
    if config.cors_origins:
        app.add_middleware(Cors, origins=config.cors_origins)
    app.add_middleware(RequestLogMiddleware, shows_prompts=config.log_prompts)


def add_model_routes(app: FastAPI, serving: ServingContext) -> None:
    """Add the routes that a model answers. Before others: a request is compared with one after the other."""
    add_twice(app, chat_router(serving))
    for make in (completions_router, embeddings_router):  # without the prefix, llama-server's form
        app.router.routes.extend(prefixed(make(serving), "/v1"))
    for make in (
        responses_router,
        anthropic_router,
        rerank_router,
        transcriptions_router,
    ):
        add_twice(app, make(serving))
    add_twice(app, tokens_router(serving), documented="")
    add_routes(
        app, native_router(serving), native_embeddings_router(serving), slot_actions_router(serving),
        lora_router(serving),
    )  # fmt: skip


def add_routes(app: FastAPI, *routers: APIRouter) -> None:
    """Add routes as they are."""
    for router in routers:
        app.router.routes.extend(router.routes)


def add_twice(app: FastAPI, router: APIRouter, documented: Literal["", "/v1"] = "/v1") -> None:
    """Add routes with the prefix /v1 and without; one of the two is in the OpenAPI document."""
    for prefix in ("/v1", ""):
        for route in prefixed(router, prefix):
            route.include_in_schema = route.include_in_schema and documented == prefix
            app.router.routes.append(route)
