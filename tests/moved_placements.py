"""Random placements with weights of single layers elsewhere; dry runs of a plan and of its command."""

from dataclasses import replace
from pathlib import Path
from random import Random

from tests.planner.saved import local, saved_plan
from tests.server_command import dry_run, parse
from vram_llm.llama.dryrun import worker
from vram_llm.llama.dryrun.wire import DryRunQuestion, DryRunReply
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.export.llama_server import command_line
from vram_llm.planner.llama_split import placement_of
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST, Context, FlashAttention, Placement

CARDS = [local(i, gib, f"{gib} GiB", row_padding=512) for i, gib in enumerate((24, 16, 12))]
_PARTS = {
    True: (LayerPart.EXPERTS, LayerPart.EXPERTS, LayerPart.EXPERTS_UP, LayerPart.EXPERTS_DOWN),
    False: (LayerPart.FFN, LayerPart.FFN, LayerPart.FFN_DOWN),
}


def drawn(pick: Random, of: ModelProfile) -> Placement:
    """Some cards in some order, perhaps layers on the host, and parts of some layers anywhere."""
    n_layers = of.n_layers
    n_host = pick.choice((0, 0, 0, pick.randint(0, n_layers - 1)))
    n_items = n_layers + 1 - n_host
    order = [card.id for card in pick.sample(CARDS, min(pick.randint(1, 3), n_items))]
    cuts = sorted(pick.sample(range(1, n_items), len(order) - 1))
    counts = [b - a for a, b in zip([0, *cuts], [*cuts, n_items], strict=True)]
    assignment = [-1] * n_host + [i for i, count in enumerate(counts) for _ in range(count)]
    stores = [card.id for card in CARDS if card.id not in order and pick.random() < 0.3]
    return placement_of([*order, *stores], assignment, _moved(pick, of, [*order, *stores, HOST]))


def _moved(pick: Random, of: ModelProfile, places: list[str]) -> tuple[Override, ...]:
    part = pick.choice(_PARTS[of.n_expert > 0])
    layers = [layer.index for layer in of.layers if not layer.is_draft and layer.tensors_of(part)]
    if pick.random() < 0.25:  # llama-server has an option of its own for these
        return (Override.of(part, layers[: pick.randint(1, len(layers))], HOST),)
    share = pick.random()
    moved: dict[str, list[int]] = {}
    for layer in layers:
        if pick.random() < share:
            moved.setdefault(pick.choice(places), []).append(layer)
    return tuple(Override.of(part, found, place) for place, found in moved.items())


def context(pick: Random, of: ModelProfile) -> Context:
    """A random context, with as many rows of logits as llama-server asks for."""
    parallel, flash_attn = pick.choice((1, 4, 8)), pick.choice(list(FlashAttention))
    plain = flash_attn is FlashAttention.OFF or of.head_k % 32 or of.head_v % 32
    kv_type = "f16" if plain else pick.choice(("f16", "q8_0"))
    n_ctx = pick.choice((4096, 16384, 65536))
    return Context(
        n_ctx=n_ctx, parallel=parallel, kv_type_k=kv_type, kv_type_v=kv_type, n_batch=2048,
        n_ubatch=pick.choice((64, 512, 2048)), n_threads=2, use_mmap=pick.random() < 0.5,
        pipeline_copies=pick.random() < 0.7, n_outputs_max=parallel, flash_attn=flash_attn,
        swa_full=pick.random() < 0.3, kv_unified=pick.random() < 0.6, op_offload=pick.random() < 0.5,
        kv_offload=pick.random() < 0.8,
    )  # fmt: skip


def twice(
    path: Path, of: ModelProfile, placement: Placement, context: Context
) -> tuple[DryRunReply, DryRunReply, str]:
    """The dry run of a plan, the one of its emitted command, and the command."""
    cards = [next(card for card in CARDS if card.id == name) for name in placement.device_order]
    planned = worker.answer(DryRunQuestion(str(path), context, placement, cards))
    plan = saved_plan(CARDS, [0, 0, of.n_layers], context=context)
    model = replace(plan.model, architecture=of.architecture)
    command = command_line(replace(plan, placement=placement, model=model))
    return planned, dry_run(parse(command), path, CARDS), command


def differences(planned: DryRunReply, emitted: DryRunReply) -> list[str]:
    """The kinds of figures that differ."""
    pairs = list(zip((*planned.devices, planned.host), (*emitted.devices, emitted.host), strict=True))
    kinds = ("weights_bytes", "context_bytes", "compute_bytes")
    found = [kind for kind in kinds if any(getattr(a, kind) != getattr(b, kind) for a, b in pairs)]
    splits = ("graph_splits", "prompt_graph_splits")
    return found + [kind for kind in splits if getattr(planned, kind) != getattr(emitted, kind)]
