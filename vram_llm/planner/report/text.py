"""The whole report of a plan: the answer, the next command, the devices, and how to read the table."""

from collections.abc import Sequence

from vram_llm.model.pooling import Pooling
from vram_llm.planner.placed_parts import EXPERTS, FFN, OTHER, placed_parts
from vram_llm.planner.report.answer import answer, bases, nearest_published
from vram_llm.planner.report.context_prices import other_contexts
from vram_llm.planner.report.device_table import device_table
from vram_llm.planner.report.prompts import how_prompts_run
from vram_llm.planner.report.split_modes import split_modes
from vram_llm.planner.types import Companion, Context, Plan
from vram_llm.text.lines import Line, Style, line, plain, printable, wrap
from vram_llm.text.plain import ascii_text
from vram_llm.units import format_bytes, format_count

_BEFORE_NEXT = 2  # lines of the answer before the next command, so that three lines hold both
_STR_WIDTH = 80
_PARTS = {
    EXPERTS: "experts: layers whose routed experts are there. ",
    FFN: "ffn: layers whose dense feed-forward weights are there. ",
    OTHER: "moved: layers of which tensors were moved there. ",
}


def as_text(plan: Plan) -> str:
    """The report in ASCII, 80 columns wide."""
    return ascii_text(plain([*head(plan, _STR_WIDTH), *body(plan, _STR_WIDTH), *notes(plan, _STR_WIDTH)]))


def head(plan: Plan, width: int, next_command: str | None = None) -> list[Line]:
    """The answer (does it fit, how fast is it) and the next command."""
    lines: list[Line] = []
    is_next_due = next_command is not None
    for text in _packed([_short(sentence, width) for sentence in answer(plan)], width):
        lines += wrap(text, width, Style.STRONG)
        if is_next_due and len(lines) >= _BEFORE_NEXT:
            lines.append(line(f"next: {next_command}"))
            is_next_due = False
    if is_next_due:
        lines.append(line(f"next: {next_command}"))
    if (basis := bases(plan)) is not None:
        lines += wrap(basis, width, Style.DIM)
    if (published := nearest_published(plan)) is not None:
        lines += wrap(printable(published), width, Style.DIM)
    return lines


def _short(sentence: str, width: int) -> str:
    """A sentence for a narrow terminal."""
    return sentence if len(sentence) <= width else sentence.replace(" tok/s for one,", " tok/s,")


def _packed(sentences: Sequence[str], width: int) -> list[str]:
    """Lines of whole sentences, as many on each line as fit."""
    lines = [sentences[0]]
    for sentence in sentences[1:]:
        if len(lines[-1]) + 1 + len(sentence) <= width:
            lines[-1] += f" {sentence}"
        else:
            lines.append(sentence)
    return lines


def body(plan: Plan, width: int) -> list[Line]:
    """The model, its context, how prompts run, the devices and what the figures mean."""
    model = plan.model
    size = f"{format_bytes(model.total_bytes)}, {model.n_layers} layers"
    return [
        (),
        *wrap(f"{model.name} {model.quantization}, {size}", width, Style.STRONG),
        *_context(plan, width),
        *(row for sentence in how_prompts_run(plan) for row in wrap(sentence, width)),
        (),
        *device_table(plan, width),
        *wrap(_how_to_read(plan), width, Style.DIM),
        *(row for companion in plan.companions for row in wrap(_companion(companion), width)),
        *split_modes(plan, width),
    ]


def notes(plan: Plan, width: int) -> list[Line]:
    """The plan's notes."""
    return [row for note in plan.notes for row in wrap(f"note: {note}", width, Style.DIM, "  ")]


def _context(plan: Plan, width: int) -> list[Line]:
    """The use of the context, and the cost of other contexts."""
    more = other_contexts(plan)
    return wrap(_use(plan.context), width) + ([] if more is None else wrap(f"Other contexts: {more}.", width))


def _use(context: Context) -> str:
    per_sequence = format_count(context.n_ctx_seq)
    if context.pooling is not None:
        what = "Scores" if context.pooling is Pooling.RANK else f"Embeddings ({context.pooling})"
        return f"{what} of texts of up to {per_sequence} tokens, {context.parallel} at a time."
    kv = context.kv_type_k
    if context.kv_type_v != kv:
        kv += f" and {context.kv_type_v}"
    if context.parallel == 1:
        return f"Context {per_sequence} for one sequence; KV cache {kv}."
    if context.kv_unified:
        return f"Context {per_sequence}, shared by {context.parallel} sequences; KV cache {kv}."
    return f"Context {per_sequence} for each of {context.parallel} sequences; KV cache {kv}."


def _how_to_read(plan: Plan) -> str:
    """The parts of the used bytes and of the budget, and how exact they are."""
    if not plan.estimate.devices:
        return "of GiB: memory that is available here, less the reserve."
    parts = placed_parts(plan.model, plan.placement)
    heads = "".join(_PARTS[kind] for kind in parts)
    reserve = max(device.reserve_bytes for device in plan.devices)
    exact = (
        "to the byte, by llama.cpp's own dry run"
        if plan.estimate.method != "analytic"
        else "weights and context exact, compute an upper estimate"
    )
    sentence = f"{heads}of: free memory less a reserve of {format_bytes(reserve)}. used: {exact}"
    overheads = {use.id: use.overhead_bytes for use in plan.estimate.devices if use.overhead_bytes}
    if not overheads:
        return f"{sentence}."
    low, high = min(overheads.values()), max(overheads.values())
    size = format_bytes(high) if low == high else f"{format_bytes(low)} to {format_bytes(high)}"
    return f"{sentence}, and {size} a card for the driver (overhead, {_overhead_source(plan, overheads)})."


def _overhead_source(plan: Plan, overheads: dict[str, int]) -> str:
    measured = [
        device.id for device in plan.devices if device.id in overheads and device.overhead is not None
    ]
    if not measured:
        return "estimated"
    return (
        "measured"
        if len(measured) == len(overheads)
        else f"measured on {', '.join(measured)}, else estimated"
    )


def _companion(companion: Companion) -> str:
    """A companion, its device and its bytes there."""
    held = [
        f"{format_bytes(use.total_bytes)} on {name}"
        for name, use in companion.uses.items()
        if use.total_bytes
    ]
    estimated = ", compute estimated" if companion.method == "analytic" else ""
    return f"with {companion.kind.value} {printable(companion.name)}, {', '.join(held)}{estimated}"
