"""GET /props and DELETE /requests/{id} of a fleet, and the facts of GET /health and /."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query

from vram_llm._version import __version__
from vram_llm.fleet.snapshots import ModelState
from vram_llm.server.api_keys import current_key
from vram_llm.server.errors import ModelNotAllowed, NoSuchRequest, NotReady
from vram_llm.server.fleet.context import FleetContext
from vram_llm.server.fleet.machine_status import running_models
from vram_llm.server.fleet.ports import ServedFleet
from vram_llm.server.fleet.readiness import Readiness
from vram_llm.server.fleet.routed_models import RoutedModels
from vram_llm.server.health import HealthFacts
from vram_llm.server.openapi import refusals
from vram_llm.server.props import Props, props_of
from vram_llm.server.serving_context import with_template
from vram_llm.server.ui.cancel_routes import CancelledRequest, cancelling_client


def fleet_health(fleet: ServedFleet, models: RoutedModels, readiness: Readiness) -> HealthFacts:
    """Ready once the models of the start are loaded; others load when they are asked for."""

    def warnings() -> list[str]:
        return [
            f"{each.model.name}: {warning}"
            for each in running_models(fleet, models)
            for warning in each.engine.warnings
        ]

    return HealthFacts(
        is_ready=lambda: readiness.phase == "ready", check_ready=readiness.check_ready, warnings=warnings
    )


def fleet_root_facts(models: RoutedModels, readiness: Readiness) -> dict[str, object]:
    """The facts of GET /."""
    names = [model.name for model in models]
    return {"status": readiness.phase, "model": names[0], "models": names}


def fleet_props_router(fleet: ServedFleet, models: RoutedModels) -> APIRouter:
    """GET /props?model=NAME: llama-server's facts of a model; without a name of the only one, or a router."""
    router = APIRouter(tags=["models"])

    @router.get("/props", summary="Default settings", responses=refusals(403, 404, 503), response_model=None)
    async def props(model: Annotated[str, Query()] = "") -> Props | dict[str, Any]:
        names = [each.name for each in models]
        if not model and len(names) == 1 and models.resolve(names[0], current_key.get())[0].info is not None:
            model = names[0]
        if not model:
            return _router_props(names)
        key = current_key.get()
        found, shown = models.resolve(model, key)
        if not key.may_use(shown):
            raise ModelNotAllowed(f"The API key '{key.name}' may not use the model '{shown}'", "model")
        if found.info is None:
            raise NotReady(
                f"The model '{found.name}' was not loaded yet, and its properties are in its file; "
                "POST /models/load loads it"
            )
        is_sleeping = fleet.snapshot(found.name).state is not ModelState.RESIDENT
        return props_of(with_template(found.info, found.config), found.config, is_sleeping=is_sleeping)

    return router


def fleet_cancel_router(context: FleetContext, fleet: ServedFleet, models: RoutedModels) -> APIRouter:
    """DELETE /requests/{id}: end a request in flight, whichever model answers it."""
    router = APIRouter(tags=["dashboard"])

    @router.delete(
        "/requests/{request_id}", summary="End a request in flight", responses=refusals(401, 403, 404)
    )
    async def cancel(request_id: str) -> CancelledRequest:
        client = cancelling_client(context.config)
        if not any(each.engine.cancel(request_id, client) for each in running_models(fleet, models)):
            raise NoSuchRequest(f"No request '{request_id[:80]}' is in flight, or it is another client's")
        return CancelledRequest(id=request_id)

    return router


def _router_props(names: Sequence[str]) -> dict[str, Any]:
    """The reply of llama-server's router (tools/server/server-models.cpp, get_router_props)."""
    return {
        "role": "router",
        "models_autoload": True,
        "max_instances": len(names),
        "model_alias": "vram-llm",
        "model_path": "none",
        "default_generation_settings": {"params": {}, "n_ctx": 0},
        "build_info": f"vram-llm {__version__}",
    }
