"""A context many times larger than all memory is refused without a dry run, which would take gigabytes."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from vram_llm import demo
from vram_llm.errors import DoesNotFit
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine.types import Device, Host, Machine
from vram_llm.model.header import Header
from vram_llm.model.profile import profile
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.types import Context, Meter, Workload
from vram_llm.workflows.planning import plan

LONGEST = 2_000_000_000
LONG = 40_000_000  # above the memory, and not by far


class RecordedDryRun:
    """Notes the contexts that it is asked about."""

    def __init__(self) -> None:
        self.contexts: list[int] = []

    def meter(
        self, model: Header, context: Context, devices: Sequence[Device], host: Host, reserve: int, **_: Any
    ) -> Meter:
        self.contexts.append(context.n_ctx)
        return AnalyticMeter(profile(model), context, devices, host, reserve)


@pytest.mark.parametrize(("n_ctx", "is_tried"), [(LONGEST, False), (LONG, True)])
def test_only_a_context_that_may_fit_is_tried(host: Host, n_ctx: int, is_tried: bool) -> None:
    dry = RecordedDryRun()
    machine = Machine(devices=(), host=host)
    with pytest.raises(DoesNotFit, match="short"):
        plan(str(demo.path()), machine, Workload(n_ctx=n_ctx), cast(DryRun, dry))
    assert (max(dry.contexts, default=0) >= n_ctx) is is_tried
