"""The options that planning commands share, as one argument of the command."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vram_llm.cli import terminal
from vram_llm.cli.machine_options import MACHINE_OPTIONS
from vram_llm.cli.option_types import AUTO, LARGEST
from vram_llm.cli.override_options import dictated_overrides
from vram_llm.cli.plan_option import PlanOption
from vram_llm.cli.settings import is_given
from vram_llm.cli.ssh_workers import ssh_workers
from vram_llm.cli.workload_options import OVERRIDES, VECTORS, WORKLOAD_OPTIONS
from vram_llm.planner.types import Workload

if TYPE_CHECKING:
    from vram_llm.machine.types import Machine
    from vram_llm.machine.worker_spec import WorkerSpec
    from vram_llm.planner.types import Plan

_F = TypeVar("_F", bound=Callable[..., Any])
PLAN_OPTIONS = (*MACHINE_OPTIONS, *WORKLOAD_OPTIONS)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The values of the shared options."""

    gpus: tuple[str, ...]
    rpc: tuple[str, ...]
    ssh: tuple[str, ...]
    start_workers: bool | None
    ram: str | None
    cpu: str | None
    disk: str | None
    device: tuple[str, ...] | None  # None: all devices
    workload: Workload
    given: tuple[str, ...]  # the flags on the command line, or in the configuration

    def machine(self, workers: "Sequence[WorkerSpec]" = ()) -> "Machine":
        """The machine to plan for, with further workers. Raises UnknownDevice, BadHost, WorkerUnreachable."""
        from vram_llm.workflows import detection

        return detection.detect(
            self.gpus,
            self.rpc,
            ram=self.ram,
            cpu=self.cpu,
            disk=self.disk,
            devices=self.device,
            workers=(*ssh_workers(self.ssh, start=bool(self.start_workers)), *workers),
        )

    def refuse_with_a_saved_plan(self, but: tuple[str, ...] = ()) -> None:
        """Raises UsageError for flags that a saved plan has decided already, other than those in `but`."""
        if idle := [flag for flag in self.given if flag not in but]:
            raise click.UsageError(f"the saved plan has decided {', '.join(idle)}; plan again to change that")


def plan_options(function: _F) -> _F:
    """Add the shared options; the command gets them as one argument, `options`."""

    def collect(**values: Any) -> Any:
        given = _given()
        machine = {field: values.pop(option.name) for option in MACHINE_OPTIONS for field in option.fields}
        workload = _workload({option: values.pop(option.name) for option in WORKLOAD_OPTIONS})
        return function(options=PlanOptions(**machine, workload=workload, given=given), **values)

    collect.__doc__ = function.__doc__
    for option in reversed(PLAN_OPTIONS):
        collect = option.decorator()(collect)
    for param in getattr(function, "__click_params__", []):
        collect.__click_params__.append(param)  # type: ignore[attr-defined]  # click's own way to stack decorators
    return collect  # type: ignore[return-value]  # click makes a command of it


def _workload(values: dict[PlanOption, Any]) -> Workload:
    """The workload that the values of options ask for."""
    workload: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for option, value in values.items():
        if value is None or option.fields in (OVERRIDES, VECTORS):
            continue
        for field in option.fields:
            section, _, name = field.rpartition(".")
            (sections.setdefault(section, {}) if section else workload)[name] = option.to_field(value)
    if workload.get("n_ctx") == LARGEST:
        workload |= {"n_ctx": None, "largest_ctx": True}
    elif workload.get("n_ctx") == AUTO:
        del workload["n_ctx"]
    workload["overrides"] = dictated_overrides(click.get_current_context())
    rows = (row for option, rows in values.items() if option.fields == VECTORS for row in rows)
    workload["control_vectors"] = tuple(vector for row in rows for vector in row)
    if workload.get("control_vector_layers") and not workload["control_vectors"]:
        raise click.UsageError("--control-vector-layer-range is for control vectors: give --control-vector")
    if _n_given(values, "rope.freq_scale") > 1:
        raise click.UsageError("--rope-scale and --rope-freq-scale set the same: give one of them")
    for section, given in sections.items():
        workload[section] = replace(getattr(Workload(), section), **given)
    return Workload(**workload)


def _n_given(values: dict[PlanOption, Any], field: str) -> int:
    """How many of the options that set `field` are given."""
    return sum(value is not None for option, value in values.items() if option.fields == (field,))


def saved_plan(path: str, options: PlanOptions) -> "Plan":
    """Load a saved plan, and check that it fits the machine now. Raises the errors of `check`."""
    from vram_llm.planner.recheck import worker_limits
    from vram_llm.workflows import saved_plans

    options.refuse_with_a_saved_plan()
    plan = saved_plans.with_tunnels(saved_plans.load_plan(path))
    workers = (
        endpoint if limit is None else f"{endpoint}@{limit}"
        for endpoint, limit in worker_limits(plan).items()
    )
    saved_plans.check(plan, rpc=tuple(workers), host_reserve_bytes=options.workload.reserve_bytes)
    return plan


def _given() -> tuple[str, ...]:
    """The shared flags that are given, on the command line of the running command or in its configuration."""
    ctx, names = click.get_current_context(), {option.name for option in PLAN_OPTIONS}
    return tuple(
        param.opts[0]
        for param in ctx.command.params
        if param.name in names and isinstance(param, click.Option) and is_given(ctx, param)
    )


def one_model(argument: str | None, option: str | None) -> str | None:
    """The model, given as an argument or as --model. Raises UsageError if both are given."""
    if argument is not None and option is not None:
        raise click.UsageError("name the model once: as an argument or with --model")
    return argument if argument is not None else option


def built_in(doing: str) -> str:
    """Print that the command uses the built-in model, and return its name."""
    from vram_llm.workflows import model_names

    terminal.say(f"no model named: {doing} the built-in one, {model_names.DEMO}", err=True)
    return model_names.DEMO
