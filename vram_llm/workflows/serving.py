"""Serve a plan over HTTP."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vram_llm.workflows.model_names import served_name
from vram_llm.workflows.saved_plans import check_loadable

if TYPE_CHECKING:
    import socket

    from vram_llm.engine.client import EngineClient
    from vram_llm.engine.model_info import ModelInfo
    from vram_llm.engine.plan_source import Replan
    from vram_llm.planner.types import Plan
    from vram_llm.server.config import ServerConfig


def serve(
    plan: "Plan",
    config: "ServerConfig | None" = None,
    *,
    socks: "Sequence[socket.socket] | None" = None,
    on_state: "Callable[[EngineClient], None]" = lambda _: None,
    on_ready: "Callable[[ModelInfo, int], None]" = lambda _info, _port: None,
    replan: "Replan | None" = None,
) -> None:
    """Load `plan` in an engine process and serve it over HTTP until SIGINT or SIGTERM.

    `config` of None means all defaults. `socks` are bound to its address (server.sockets.bind_all) and
    closed at the end; None: `serve` binds them. `on_state` runs at every change while loading; `on_ready`
    runs at the end of the first load and gets the port. `replan` plans again for a load before which the
    model's file has changed, which is refused without it, or after memory ran out.

    Raises PortInUse, KeyRequired, BadKeysFile, BadCertificate, ModelRefused, BadPlan, EngineDied,
    BrokenTemplate, RequestError for `config.chat_template_kwargs`.
    """
    from vram_llm.chat.template import check_template
    from vram_llm.engine.client import EngineClient
    from vram_llm.server import run
    from vram_llm.server.config import ServerConfig
    from vram_llm.server.template_variables import check_variables
    from vram_llm.server.ui.ports import Ui
    from vram_llm.workflows.listening import run_listening
    from vram_llm.workflows.what_if.planner import WhatIfProcess

    check_loadable(plan)
    config = config or ServerConfig()
    check_variables(config.chat_template_kwargs)
    if config.chat_template is not None:
        check_template(config.chat_template, "the chat template")

    async def main(bound: "list[socket.socket]") -> None:
        name = config.model_name or served_name(plan.model.path)
        engine = EngineClient(plan, name, on_state, watchdog_s=config.watchdog_s, replan=replan)
        listening_on: int = bound[0].getsockname()[1]
        planner = WhatIfProcess(lambda: engine.plan)
        try:
            await run.serve(
                engine, bound, config, on_ready=lambda info: on_ready(info, listening_on), ui=Ui(planner)
            )
        finally:
            await planner.close()

    run_listening(main, config, socks)
