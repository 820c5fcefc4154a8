"""What other contexts than the plan's would cost, as one line."""

from vram_llm.planner.report.figures import rate
from vram_llm.planner.types import ContextPrice, Plan
from vram_llm.units import format_count, typed_count


def context_line(plan: Plan) -> str | None:
    """For example: "context 16k; 24k costs 7%, max 46k 18%; `--kv-type q8_0 --n-ctx 32k` runs at 19.1 tok/s".

    Costs are in tokens per second at the plan's depth. None where nothing is known of another context.
    """
    if plan.context.pooling is not None:
        return None
    n_ctx, trained = plan.context.n_ctx, plan.model.context_length
    is_whole = trained is not None and plan.context.n_ctx_seq >= trained
    if not plan.context_prices and not is_whole:
        return None
    line = f"context {format_count(n_ctx)}" + (", all that the model was trained on" if is_whole else "")
    return "; ".join([line, *_phrases(plan)])


def other_contexts(plan: Plan) -> str | None:
    """What `context_line` says of other contexts; None where nothing is known of them."""
    return "; ".join(_phrases(plan)) or None


def _phrases(plan: Plan) -> list[str]:
    """What other contexts cost, those of one KV type together."""
    by_kv: dict[str | None, list[str]] = {}
    for price in plan.context_prices:
        by_kv.setdefault(price.kv_type, []).append(_phrase(plan, price))
    return [", ".join(phrases) for phrases in by_kv.values()]


def _phrase(plan: Plan, price: ContextPrice) -> str:
    n_ctx, cost = format_count(price.n_ctx), price.cost
    more = price.cpu_layers - plan.placement.cpu_layers
    where = " on the cards" if more < 0 and not price.cpu_layers else ""
    if price.kv_type is not None:
        flags = f"`--kv-type {price.kv_type} --n-ctx {typed_count(price.n_ctx)}`"
        return f"{flags} {f'stays{where}' if where else 'runs'} at {rate(price.tokens_per_s)} tok/s"
    if more > 0:
        layers = f"{more} more layer{'s' if more > 1 else ''}"
        return f"{n_ctx} puts {layers} on the CPU and costs {cost:.0%}"
    if more < 0:
        return f"{n_ctx} stays{where} at {rate(price.tokens_per_s)} tok/s"
    if price.is_longest:
        return f"max {n_ctx}" + (f" {cost:.0%}" if cost >= 0.005 else "")
    return f"{n_ctx} is {-cost:.0%} faster" if cost < 0 else f"{n_ctx} costs {cost:.0%}"
