"""Changes of a plan, ranked by gain, with the effects of each."""

from collections.abc import Iterator
from dataclasses import dataclass

from vram_llm.planner.placed_parts import on_host
from vram_llm.planner.speed_error import is_certain
from vram_llm.planner.types import Alternative, Plan, SpeedEstimate
from vram_llm.units import format_bytes, format_count

_SEEN = 0.005  # share of a figure; smaller changes count as none
_PROMPT_WEIGHT = _CONTEXT_WEIGHT = 0.25  # relative to tokens per second, which every request waits for
_MOST_CONTEXT = 1.0  # more than twice the context counts as twice


@dataclass(frozen=True, slots=True, kw_only=True)
class WayEffect:
    """Relative changes of a plan's figures; above 0 means more."""

    tokens_per_s: float
    prompt_tokens_per_s: float
    context: float
    memory: float  # on all devices

    @property
    def gain(self) -> float:
        """The weighted sum of the changes; below 0 if every change is a cost."""
        prompts = _PROMPT_WEIGHT * self.prompt_tokens_per_s
        context = _CONTEXT_WEIGHT * min(self.context, _MOST_CONTEXT)
        return self.tokens_per_s + prompts + context - self.memory


def ranked_ways(plan: Plan) -> tuple[Alternative, ...]:
    """Every alternative with flags that fits: first those on the cards, sorted by gain."""
    typed = [other for other in plan.alternatives if other.flags and other.fits]
    return tuple(sorted(typed, key=lambda other: (_n_on_cpu(other) > 0, -effect(plan, other).gain)))


def useful_ways(plan: Plan) -> tuple[Alternative, ...]:
    """The ranked ways that gain something and put no more layers, whole or in part, on the CPU."""
    return tuple(
        other
        for other in ranked_ways(plan)
        if _n_on_cpu(other) <= _n_on_cpu(plan) and _gains_something(effect(plan, other))
    )


def effect(plan: Plan, other: Alternative) -> WayEffect:
    """The changes from `plan` to `other`."""
    held = sum(use.total_bytes for use in plan.estimate.devices)
    change = sum(other.change_bytes.values())
    return WayEffect(
        tokens_per_s=_more(_rate(plan, plan.speed), _rate(plan, other.speed)),
        prompt_tokens_per_s=_more(_prompt_rate(plan.speed), _prompt_rate(other.speed)),
        context=other.context.n_ctx_seq / plan.context.n_ctx_seq - 1,
        memory=change / held if held else 0.0,
    )


def in_words(plan: Plan, other: Alternative) -> str:
    """Gains and costs of `other`: "14.4 tok/s (+2%), frees 1.2 GiB"."""
    name = f"{other.name}: " if "--tensor-split" in other.flags else ""
    return name + ", ".join(_words(plan, other))


def _words(plan: Plan, other: Alternative) -> Iterator[str]:
    changed = effect(plan, other)
    rate = _rate(plan, other.speed)
    if rate is not None:
        yield f"{rate:,.3g} tok/s{_signed(changed.tokens_per_s) if _is_certain(plan, other) else ''}"
    if plan.context.pooling is None and abs(changed.prompt_tokens_per_s) >= 2 * _SEEN:
        yield f"prompts{_signed(changed.prompt_tokens_per_s)}"
    if changed.context and "--n-ctx" not in other.flags[-2:]:
        yield f"context {format_count(other.context.n_ctx_seq)} a sequence"
    if change := sum(other.change_bytes.values()):
        verb = "takes" if change > 0 else "frees"
        roughly = "~" if other.estimate.method == "analytic" else ""
        yield f"{verb} {roughly}{format_bytes(abs(change))}"
    on_cpu = on_host(other.placement)
    if on_cpu != on_host(plan.placement):
        yield f"{on_cpu} on the CPU" if on_cpu.n_with_weights else "all layers on the cards"


def _is_certain(plan: Plan, other: Alternative) -> bool:
    """Whether the change of tokens per second is larger than the error of the prediction."""
    if plan.speed is None or other.speed is None or plan.context.pooling is not None:
        return True
    return is_certain(plan.speed, other.speed)


def _n_on_cpu(of: Plan | Alternative) -> int:
    return on_host(of.placement).n_with_weights


def _gains_something(changed: WayEffect) -> bool:
    gains = (changed.tokens_per_s, changed.prompt_tokens_per_s, changed.context, -changed.memory)
    return any(gain >= _SEEN for gain in gains)


def _signed(change: float) -> str:
    if change >= 1:
        return f" ({1 + change:,.1f}x)"
    return f" ({change:+.0%})" if abs(change) >= _SEEN else ""


def _rate(plan: Plan, speed: SpeedEstimate | None) -> float | None:
    """Tokens per second of one stream; for embeddings, of prompts, since texts are computed like prompts."""
    if speed is None:
        return None
    return speed.tokens_per_s if plan.context.pooling is None else speed.prompt_tokens_per_s


def _prompt_rate(speed: SpeedEstimate | None) -> float | None:
    return None if speed is None else speed.prompt_tokens_per_s


def _more(now: float | None, then: float | None) -> float:
    return then / now - 1 if now and then else 0.0
