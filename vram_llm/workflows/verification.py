"""Load a plan and compare its memory use with the planned bytes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vram_llm.errors import NotBuilt
from vram_llm.workflows.model_names import DEMO, resolve
from vram_llm.workflows.saved_plans import check_loadable

if TYPE_CHECKING:
    from vram_llm.engine.client import EngineClient
    from vram_llm.planner.memory_report import Certificate
    from vram_llm.planner.types import Plan


def verify(plan: "Plan", *, on_state: "Callable[[EngineClient], None]" = lambda _: None) -> "Certificate":
    """Load `plan` in an engine process, run a prompt and a decode, and compare held with planned bytes.

    The memory that NVML shows outside llama.cpp's buffers is stored for later plans on the same card. For the
    built-in model it is not stored: the model is too small to show what other models need. Raises
    ModelRefused, BadPlan, EngineDied, NotBuilt.
    """
    import asyncio

    from vram_llm.engine import probe
    from vram_llm.machine import nvml
    from vram_llm.planner.memory_report import certify, readings

    check_loadable(plan)
    before = nvml.memory_usage()
    info, after = asyncio.run(probe.run(plan, nvml.memory_usage, on_state))
    if not info.memory:
        raise NotBuilt("this build of llama.cpp does not report its memory use, so it can verify no plan")
    reported = (info.memory, info.draft_memory)
    measured = readings(plan, reported, before.used_bytes, after.used_bytes, after.process_bytes)
    certificate = certify(plan, info.memory, measured, info.draft_memory)
    notes = _store_overheads(plan, certificate, after.driver_version)
    return dataclasses.replace(certificate, notes=notes)


def _store_overheads(plan: "Plan", certificate: "Certificate", driver: str | None) -> tuple[str, ...]:
    """Store the memory measured outside llama.cpp's buffers on each card. Returns sentences on the result."""
    from vram_llm.machine import overhead_store
    from vram_llm.planner.memory_report import OF_PROCESS

    devices = {device.id: device for device in plan.devices}
    records = {}
    for row in certificate.devices:
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
