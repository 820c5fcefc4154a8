"""All routes of the dashboard but its page."""

from fastapi import APIRouter

from vram_llm.server.serving_context import ServingContext
from vram_llm.server.ui.cancel_routes import cancel_router
from vram_llm.server.ui.log_ring import logs_router
from vram_llm.server.ui.page import Page, page_router
from vram_llm.server.ui.plan_routes import plan_router
from vram_llm.server.ui.ports import Ui


def dashboard_routers(serving: ServingContext, ui: Ui, page: Page) -> tuple[APIRouter, ...]:
    """The page's files, what-if plans, the end of requests, the log."""
    return (
        page_router(page), plan_router(ui.planner), cancel_router(serving), logs_router(ui.logs, serving),
    )  # fmt: skip
