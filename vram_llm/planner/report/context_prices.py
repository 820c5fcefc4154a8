"""The cost of contexts other than the plan's, as one line."""

from vram_llm.planner.context_price import ContextPrice
from vram_llm.planner.placed_parts import on_host
from vram_llm.planner.report.figures import rate
from vram_llm.planner.types import Plan
from vram_llm.units import format_count, typed_count


def other_contexts(plan: Plan) -> str | None:
    """For example: "24k costs 7%, max 46k costs 18%; `--kv-type q8_0 --n-ctx 32k` runs at 19.1 tok/s".

    Costs are in tokens per second at the plan's depth. None if the plan has no prices of other contexts.
    """
    return "; ".join(_phrases(plan)) or None


def _phrases(plan: Plan) -> list[str]:
    """The costs of other contexts, grouped by KV type."""
    by_kv: dict[str | None, list[str]] = {}
    for price in plan.context_prices:
        by_kv.setdefault(price.kv_type, []).append(_phrase(plan, price))
    return [", ".join(phrases) for phrases in by_kv.values()]


def _phrase(plan: Plan, price: ContextPrice) -> str:
    n_ctx, cost = format_count(price.n_ctx), price.cost
    more = price.cpu_layers - plan.placement.cpu_layers
    more_parts = price.cpu_parts - sum(part.n_layers for part in on_host(plan.placement).parts)
    is_less = more < 0 or (more == 0 and more_parts < 0)
    where = " on the cards" if is_less and not (price.cpu_layers or price.cpu_parts) else ""
    if price.kv_type is not None:
        flags = f"`--kv-type {price.kv_type} --n-ctx {typed_count(price.n_ctx)}`"
        return f"{flags} {f'stays{where}' if where else 'runs'} at {rate(price.tokens_per_s)} tok/s"
    if more > 0:
        layers = f"{more} more layer{'s' if more > 1 else ''}"
        return f"{n_ctx} puts {layers} on the CPU and costs {cost:.0%}"
    if more == 0 and more_parts > 0:
        what = "experts" if plan.model.expert_layers else "feed-forward weights"
        layers = f"{more_parts} more layer{'s' if more_parts > 1 else ''}"
        return f"{n_ctx} puts the {what} of {layers} on the CPU and costs {cost:.0%}"
    if is_less:
        return f"{n_ctx} stays{where} at {rate(price.tokens_per_s)} tok/s"
    if price.is_longest:
        return f"max {n_ctx}" + (f" costs {cost:.0%}" if cost >= 0.005 else "")
    return f"{n_ctx} is {-cost:.0%} faster" if cost < 0 else f"{n_ctx} costs {cost:.0%}"
