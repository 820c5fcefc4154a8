"""The nearest published speed of a plan."""

import dataclasses
from typing import TYPE_CHECKING

from vram_llm.errors import UnknownDevice
from vram_llm.machine import catalog
from vram_llm.machine.published_speeds import PublishedRow, published_rows
from vram_llm.planner.nearest_published import PublishedCase, model_kind, nearest_published
from vram_llm.planner.published_speed import PublishedSpeed
from vram_llm.planner.search.candidate import expected_speed, uses_host
from vram_llm.planner.tensor_split import SplitMode

if TYPE_CHECKING:
    from vram_llm.machine.types import Machine
    from vram_llm.model.profile import ModelProfile
    from vram_llm.planner.types import Plan, Workload


def with_published(plan: "Plan", profile: "ModelProfile", machine: "Machine", workload: "Workload") -> "Plan":
    """`plan` with the published speed that is nearest to it, if one is near."""
    case = _case(plan, profile)
    row = None if case is None else nearest_published(case, published_rows())
    if row is None:
        return plan
    depth = max(row.depth + row.n_generated // 2, 1)
    speed = expected_speed(profile, machine, dataclasses.replace(workload, expect_depth=depth), plan)
    return dataclasses.replace(plan, published=_published(row, speed.tokens_per_s))


def _case(plan: "Plan", profile: "ModelProfile") -> PublishedCase | None:
    """The plan as published rows describe theirs; None if they have no such plans."""
    used = [device for device in plan.devices if device.id in plan.placement.device_order]
    is_whole = bool(used) and not uses_host(profile, plan.placement) and plan.context.kv_offload
    if not is_whole or plan.speed is None or plan.placement.split_mode is SplitMode.TENSOR:
        return None
    if plan.context.pooling is not None or any(device.endpoint is not None for device in used):
        return None
    try:
        names = {catalog.find_card(device.name, device.total_bytes).name for device in used}
    except UnknownDevice:
        return None
    if len(names) != 1:
        return None
    return PublishedCase(
        card=names.pop(),
        device=used[0],
        n_cards=len(used),
        kind=model_kind(profile),
        total_bytes=profile.total_bytes,
        active_bytes=profile.active_bytes_per_token,
        depth=plan.speed.depth,
    )


def _published(row: PublishedRow, predicted_tokens_per_s: float) -> PublishedSpeed:
    names = {field.name for field in dataclasses.fields(PublishedSpeed)}
    facts = {name: value for name, value in row._asdict().items() if name in names}
    return PublishedSpeed(**facts, predicted_tokens_per_s=predicted_tokens_per_s)
