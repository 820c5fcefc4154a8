"""vram-llm serve: an OpenAI endpoint over a planned model."""

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.cli.complete_model import complete_model, same_model
from vram_llm.cli.configured_command import ConfiguredCommand, arguments_of, config_option
from vram_llm.cli.fleet_config import configured_fleet
from vram_llm.cli.fleet_options import ResidencyOptions, residency_options
from vram_llm.cli.load_progress import LoadProgress
from vram_llm.cli.plan_options import PlanOptions, built_in, one_model, plan_options, saved_plan
from vram_llm.cli.serve_fleet import serve_fleet
from vram_llm.cli.serve_ray import serve_ray
from vram_llm.cli.server_log import set_up_log
from vram_llm.cli.server_options import server_options
from vram_llm.server.config import ServerConfig

if TYPE_CHECKING:
    from vram_llm.engine.client import EngineClient
    from vram_llm.engine.model_info import ModelInfo
    from vram_llm.planner.types import Plan


@click.command("serve", cls=ConfiguredCommand)
@click.argument("model", nargs=-1, shell_complete=complete_model)
@same_model
@config_option
@click.option("--plan", "plan_file", metavar="FILE", help="Use a plan saved with `vram-llm plan --json`.")
@click.option("--smart-split", is_flag=True, help="Plan the split from the model file. This is the default.")
@click.option("--ray", "ray_address", metavar="ADDRESS", help=(
    "Serve the models of a file on a Ray cluster, of which this machine is a node; local: on this machine."
))  # fmt: skip
@residency_options
@server_options
@plan_options
def command(
    options: PlanOptions,
    server: ServerConfig,
    residency: ResidencyOptions,  # read with the models of a fleet
    model: tuple[str, ...],
    model_option: str | None,
    plan_file: str | None,
    smart_split: bool,
    ray_address: str | None,
) -> None:
    """Plan MODEL over this machine's devices and workers, load it, and serve it until Ctrl+C.

    Without MODEL or --plan: the built-in model. Several models, as arguments or in `models:` of a file:
    those that fit are loaded together, and requests load the others in turn. NAME=MODEL names a model.
    """
    from vram_llm.server import sockets
    from vram_llm.server.host_check import check_exposure
    from vram_llm.workflows import planning, serving
    from vram_llm.workflows.replanning import Replanner

    fleet = configured_fleet(click.get_current_context(), server)
    if ray_address is not None:
        serve_ray(ray_address, fleet, options, server, arguments_of(click.get_current_context()))
        return
    if fleet is not None:
        serve_fleet(fleet, options, server, arguments_of(click.get_current_context()))
        return
    name = one_model(next(iter(model), None), model_option)
    if smart_split and options.workload.tensor_split is not None:
        raise click.UsageError(
            "--smart-split plans the split and --tensor-split dictates it: give one of them"
        )
    _check_one_source(name, plan_file)
    set_up_log(server)
    with contextlib.ExitStack() as stack:
        if plan_file is not None:
            plan = saved_plan(plan_file, options)
        # before planning, which may take minutes for a model on a hub
        socks = [stack.enter_context(sock) for sock in sockets.bind_all(server.host, server.port)]
        check_exposure(socks, server)
        replan = None
        if plan_file is None:
            model_name = name or built_in("serving")
            plan = planning.plan(model_name, options.machine(), options.workload)
            replan = Replanner(model_name, options.machine, options.workload)
        _check_image_dir(plan, server)
        for note in plan.notes:
            terminal.say(f"note: {note}", err=True)
        progress = stack.enter_context(LoadProgress(plan.model.name, plan.model.total_bytes))
        reporter = _Reporter(plan, server, progress)
        serving.serve(
            plan,
            server,
            socks=socks,
            on_state=reporter.on_state,
            on_ready=reporter.on_ready,
            replan=replan,
        )


def _check_one_source(name: str | None, plan_file: str | None) -> None:
    """Raises UsageError for a model and a plan."""
    if name is not None and plan_file is not None:
        raise click.UsageError(
            "give a model, `vram-llm serve MODEL`, or a saved plan, `vram-llm serve --plan FILE`: not both"
        )


def _check_image_dir(plan: "Plan", server: ServerConfig) -> None:
    """Raises UsageError for a folder of images without a projector."""
    from vram_llm.planner.types import CompanionKind

    has_projector = any(companion.kind is CompanionKind.MMPROJ for companion in plan.companions)
    if server.image_dir is not None and not has_projector:
        raise click.UsageError(
            "--image-dir is for models that take images: give their projector, --mmproj FILE"
        )


@dataclass(slots=True)
class _Reporter:
    """Reports the load, and at its end the model and the server's address. `plan` is the loaded one."""

    plan: "Plan"
    server: ServerConfig
    progress: LoadProgress

    def on_state(self, engine: "EngineClient") -> None:
        """Show the load. After a lack of memory the engine has a smaller plan."""
        self.plan = engine.plan
        self.progress.on_state(engine)

    def on_ready(self, info: "ModelInfo", port: int) -> None:
        """Print the four lines; with --verbose or after a bad prediction, also planned and held bytes."""
        from vram_llm.cli.memory_report import print_loaded
        from vram_llm.cli.ready_lines import ready_lines
        from vram_llm.planner.memory_report import memory_report

        self.progress.close()
        if info.memory:
            report = memory_report(self.plan, info.memory, draft=info.draft_memory)
            if self.server.verbose or report.is_far_off:
                print_loaded(report)
        for line in ready_lines(self.plan, info, self.server, port):
            terminal.say(line, err=True)
