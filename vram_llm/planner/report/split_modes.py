"""A row for each split mode: its speed with its range, the time of a prompt, the memory of all devices."""

from vram_llm.planner.report.figures import gib, rate, seconds
from vram_llm.planner.types import Alternative, Plan
from vram_llm.text.lines import Line
from vram_llm.text.table import Column, table
from vram_llm.units import format_count


def other_mode(plan: Plan) -> Alternative | None:
    """The plan with the other split mode, if it was made."""
    mode = plan.placement.split_mode
    return next((other for other in plan.alternatives if other.placement.split_mode is not mode), None)


def split_modes(plan: Plan, width: int) -> list[Line]:
    """A table with the chosen mode first; empty if only one mode was planned, or if `width` is too small."""
    other = other_mode(plan)
    if other is None or plan.speed is None or plan.speed.prompt_s is None or plan.context.pooling is not None:
        return []
    rows = []
    for each in (plan, other):
        speed, likely = each.speed, each.speed.tokens_per_s_range if each.speed else None
        if speed is None or speed.prompt_s is None:
            return []
        between = f"{rate(likely.low)} to {rate(likely.high)}" if likely else ""
        memory = sum(use.total_bytes for use in each.estimate.devices)
        mode = f"by {each.placement.split_mode}s"
        rows.append((mode, rate(speed.tokens_per_s), between, seconds(speed.prompt_s), gib(memory)))
    columns = (
        Column(title="split"),
        Column(title="tok/s", right=True),
        Column(title="nine of ten", right=True),
        Column(title=f"{format_count(plan.speed.prompt_tokens)} prompt", right=True),
        Column(title="GiB", right=True),
    )
    lines = table(columns, rows, width)
    return [(), *lines] if lines else []
