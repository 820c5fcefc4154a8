"""Whether a plan fits and how fast it is, in sentences."""

from vram_llm.machine.types import Source
from vram_llm.planner.placed_parts import listed, on_host
from vram_llm.planner.report.figures import rate, rough_rate, seconds
from vram_llm.planner.report.from_disk import reads_from_disk
from vram_llm.planner.types import Plan, SpeedEstimate
from vram_llm.units import format_count

_FROM = {source: str(source) for source in Source} | {
    Source.DRIVER: "from the driver",
    Source.CATALOG: "from the catalog",
    Source.GIVEN: "from what was given",
}

_BACKENDS = {"rocm": "ROCm", "vulkan": "Vulkan"}
_SLOWER = 0.98  # share of the speed; a smaller loss at the end of the context is not mentioned


def answer(plan: Plan) -> tuple[str, ...]:
    """Sentences: the devices of the model, the expected speed, and the time to read a prompt."""
    if plan.speed is None:
        return (_where(plan), "Its speed is not known.")
    if plan.context.pooling is not None:
        return (_where(plan), *_embedding(plan.speed))
    return (_where(plan), _decoding(plan.speed), *_at_end(plan), *_prompt(plan.speed))


def bases(plan: Plan) -> str | None:
    """The sources of the figures in `answer`, and the depth for which they hold."""
    speed = plan.speed
    if speed is None:
        return None
    if plan.context.pooling is not None:
        return None if speed.prompt_basis is None else f"The speed is {_FROM[speed.prompt_basis]}."
    kinds: dict[Source, list[str]] = {speed.basis: ["one"]}
    if speed.streams > 1 and speed.streams_basis is not None:
        kinds.setdefault(speed.streams_basis, []).append(f"{speed.streams} together")
    if speed.prompt_basis is not None:
        kinds.setdefault(speed.prompt_basis, []).append("prompts")
    depth = f"Speeds at a depth of {format_count(speed.depth)}"
    if len(kinds) == 1:
        return f"{depth} are {_FROM[speed.basis]}."
    return f"{depth}: {'; '.join(f'{listed(of)} {_FROM[source]}' for source, of in kinds.items())}."


def nearest_published(plan: Plan) -> str | None:
    """The nearest published speed, and the plan's own for the same depth."""
    found = plan.published
    if found is None:
        return None
    cards = f"{found.n_cards}x {found.card}" if found.n_cards > 1 else found.card
    own_kind = {str(device.kind) for device in plan.devices if device.other_kind is None}
    backend = "" if own_kind == {found.backend} else f" with {_BACKENDS.get(found.backend, found.backend)}"
    depth = f" at a depth of {format_count(found.depth)}" if found.depth else ""
    return (
        f"Nearest published ({found.date}): {cards}{backend}, {found.model} {found.quantization}{depth}, "
        f"{rate(found.tokens_per_s)} tok/s (predicted here: {rate(found.predicted_tokens_per_s)})."
    )


def _where(plan: Plan) -> str:
    if (reads := reads_from_disk(plan)) is not None:
        held = on_host(plan.placement).phrases(plan.model.n_layers)
        where = f", with {listed(held)} on the CPU" if plan.placement.device_order else " on the CPU"
        return f"Runs{where}; {reads}."
    if not plan.placement.device_order:
        return "Fits on the CPU."
    cache = [] if plan.context.kv_offload else ["the KV cache"]
    if held := [*cache, *on_host(plan.placement).phrases(plan.model.n_layers)]:
        return f"Fits, with {listed(held)} on the CPU."
    used = set(plan.used)
    cards = [device for device in plan.devices if device.endpoint is None]
    n_cards = sum(device.id in used for device in cards)
    n_workers = len({device.endpoint for device in plan.devices if device.id in used and device.endpoint})
    parts = []
    if n_cards:
        parts.append(_counted("card", n_cards, len(cards)))
    if n_workers:
        n_all = len({device.endpoint for device in plan.devices if device.endpoint})
        parts.append(_counted("worker", n_workers, n_all))
    return f"Fits on {' and '.join(parts)}."


def _counted(what: str, used: int, of: int) -> str:
    """ "the card", "one card of 3", "2 of 3 cards", "the cards"."""
    if used == of:
        return f"the {what}" if of == 1 else f"the {what}s"
    return f"one {what} of {of}" if used == 1 else f"{used} of {of} {what}s"


def _decoding(speed: SpeedEstimate) -> str:
    about = "About " if speed.basis is Source.ASSUMED else ""
    one = f"{about}{rate(speed.tokens_per_s)} tok/s for one"
    if (likely := speed.tokens_per_s_range) is not None:
        one += f" ({rate(likely.low)} to {rate(likely.high)} in nine of ten)"
    if speed.streams > 1 and speed.streams_tokens_per_s is not None:
        one += f", {rough_rate(speed.streams_tokens_per_s)} for {speed.streams} together"
    return f"{one}."


def _at_end(plan: Plan) -> tuple[str, ...]:
    """The speed of one stream at the end of the context, if it is lower."""
    speed, at_end = plan.speed, plan.speed_at_end
    if speed is None or at_end is None or at_end.tokens_per_s >= _SLOWER * speed.tokens_per_s:
        return ()
    return (f"At a depth of {format_count(at_end.depth)}: {rate(at_end.tokens_per_s)} tok/s.",)


def _prompt(speed: SpeedEstimate) -> tuple[str, ...]:
    if speed.prompt_s is None:
        return ()
    n_tokens = format_count(speed.prompt_tokens)
    prompt = f"{n_tokens} prompt" if n_tokens.endswith("k") else f"prompt of {n_tokens} tokens"
    return (f"A {prompt} takes {seconds(speed.prompt_s)}.",)


def _embedding(speed: SpeedEstimate) -> tuple[str, ...]:
    if speed.prompt_tokens_per_s is None:
        return ("Its speed is not known.",)
    return (f"Reads {rough_rate(speed.prompt_tokens_per_s)} tok/s.",)
