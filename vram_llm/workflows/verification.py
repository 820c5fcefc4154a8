"""Load a plan; compare its memory use with the planned bytes, and a tensor split's logits with others."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vram_llm.errors import NotBuilt
from vram_llm.planner.logits_check import compare_logprobs
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.workflows.model_names import DEMO, resolve
from vram_llm.workflows.saved_plans import check_loadable

if TYPE_CHECKING:
    from vram_llm.engine.client import EngineClient
    from vram_llm.engine.probe import Scores
    from vram_llm.planner.logits_check import LogitsCheck
    from vram_llm.planner.memory_report import MemoryReport
    from vram_llm.planner.types import Plan


def verify(plan: "Plan", *, on_state: "Callable[[EngineClient], None]" = lambda _: None) -> "MemoryReport":
    """Load `plan` in an engine process, run a prompt and a decode, and compare held with planned bytes.

    The memory that NVML shows outside llama.cpp's buffers is stored for later plans on the same card. For the
    built-in model it is not stored: the model is too small to show what other models need. The layer split
    of a tensor split's plan is loaded after it, and their logits are compared. Raises ModelRefused, BadPlan,
    EngineDied, NotBuilt.
    """
    import asyncio

    from vram_llm.engine import probe
    from vram_llm.machine import nvml
    from vram_llm.planner.memory_report import memory_report, readings

    check_loadable(plan)
    before = nvml.memory_usage()
    by_layers, scores = _by_layers(plan), None
    if by_layers is None:
        info, after = asyncio.run(probe.run(plan, nvml.memory_usage, on_state))
    else:
        info, after, scores = asyncio.run(probe.run_and_score(plan, nvml.memory_usage, on_state))
    if not info.memory:
        raise NotBuilt("this build of llama.cpp does not report its memory use, so it can verify no plan")
    reported = (info.memory, info.draft_memory)
    measured = readings(plan, reported, before.used_bytes, after.used_bytes, after.process_bytes)
    report = memory_report(plan, info.memory, measured, info.draft_memory)
    notes = _store_overheads(plan, report, after.driver_version)
    logits = None
    if by_layers is not None and scores is not None:
        _, _, expected = asyncio.run(probe.run_and_score(by_layers, lambda _: None, on_state))
        logits = _compared(expected, scores)
    elif plan.placement.split_mode is SplitMode.TENSOR:
        notes = (*notes, "logits are not compared: the model does not fit split by layers")
    return dataclasses.replace(report, notes=notes, logits=logits)


def _by_layers(plan: "Plan") -> "Plan | None":
    """A tensor split's alternative, a layer split, without companions, which change no logits.

    None if it does not fit, or if the plan itself is a layer split.
    """
    if plan.placement.split_mode is SplitMode.LAYER:
        return None
    for other in plan.alternatives:
        if other.placement.split_mode is SplitMode.LAYER and other.fits:
            return dataclasses.replace(
                plan,
                context=other.context,
                placement=other.placement,
                estimate=other.estimate,
                alternatives=(),
                companions=(),
            )
    return None


def _compared(expected: "Scores", found: "Scores") -> "LogitsCheck":
    """Compare two loads up to the first token that only one of them wrote."""
    pairs = [
        pair
        for prompts in zip(expected, found, strict=True)
        for pair in itertools.takewhile(lambda two: two[0].token == two[1].token, zip(*prompts, strict=True))
    ]
    return compare_logprobs([a.logprob for a, _ in pairs], [b.logprob for _, b in pairs])


def _store_overheads(plan: "Plan", report: "MemoryReport", driver: str | None) -> tuple[str, ...]:
    """Store the memory measured outside llama.cpp's buffers on each card. Returns sentences on the result."""
    from vram_llm.machine import overhead_store
    from vram_llm.planner.memory_report import OF_PROCESS

    devices = {device.id: device for device in plan.devices}
    records = {}
    for row in report.devices:
        overhead, device = row.overhead, devices.get(row.id)
        if overhead is None or overhead.held_bytes is None or device is None or device.uuid is None:
            continue
        if overhead.how != OF_PROCESS:  # a card's growth includes other programs' memory
            continue
        records[device.uuid] = overhead_store.new_record(
            device, overhead.held_bytes, how=overhead.how, model=plan.model.name, driver=driver
        )
    if records and Path(plan.model.path) == resolve(DEMO):
        return (
            "not stored: the built-in model is too small to show others' memory outside llama.cpp's buffers",
        )
    return overhead_store.store(records) if records else ()
