"""Random placements with moved weights of layers, and dry runs of a plan and of its llama-server command."""

from dataclasses import replace
from pathlib import Path
from random import Random

from tests.planner.saved import local, saved_plan
from tests.server_command import dry_run, parse
from vram_llm.llama.dryrun import worker
from vram_llm.llama.dryrun.wire import DryRunReply, DryRunRequest
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


def random_placement(pick: Random, profile: ModelProfile) -> Placement:
    """Some cards in some order, perhaps layers on the host, and parts of some layers on other devices."""
    n_layers = profile.n_layers
    n_host = pick.choice((0, 0, 0, pick.randint(0, n_layers - 1)))
    n_items = n_layers + 1 - n_host
    order = [card.id for card in pick.sample(CARDS, min(pick.randint(1, 3), n_items))]
    cuts = sorted(pick.sample(range(1, n_items), len(order) - 1))
    counts = [b - a for a, b in zip([0, *cuts], [*cuts, n_items], strict=True)]
    assignment = [-1] * n_host + [i for i, count in enumerate(counts) for _ in range(count)]
    without_layers = [card.id for card in CARDS if card.id not in order and pick.random() < 0.3]
    device_order = [*order, *without_layers]
    return placement_of(device_order, assignment, _random_overrides(pick, profile, [*device_order, HOST]))


def _random_overrides(pick: Random, profile: ModelProfile, devices: list[str]) -> tuple[Override, ...]:
    part = pick.choice(_PARTS[profile.n_expert > 0])
    layers = [layer.index for layer in profile.layers if not layer.is_draft and layer.tensors_of(part)]
    if pick.random() < 0.25:  # llama-server has an option of its own for these
        return (Override.of(part, layers[: pick.randint(1, len(layers))], HOST),)
    share = pick.random()
    moved: dict[str, list[int]] = {}
    for layer in layers:
        if pick.random() < share:
            moved.setdefault(pick.choice(devices), []).append(layer)
    return tuple(Override.of(part, indices, device) for device, indices in moved.items())


def random_context(pick: Random, profile: ModelProfile) -> Context:
    """A random context, with as many rows of logits as llama-server asks for."""
    parallel, flash_attn = pick.choice((1, 4, 8)), pick.choice(list(FlashAttention))
    needs_f16 = flash_attn is FlashAttention.OFF or profile.head_k % 32 or profile.head_v % 32
    kv_type = "f16" if needs_f16 else pick.choice(("f16", "q8_0"))
    n_ctx = pick.choice((4096, 16384, 65536))
    return Context(
        n_ctx=n_ctx, parallel=parallel, kv_type_k=kv_type, kv_type_v=kv_type, n_batch=2048,
        n_ubatch=pick.choice((64, 512, 2048)), n_threads=2, use_mmap=pick.random() < 0.5,
        pipeline_copies=pick.random() < 0.7, n_outputs_max=parallel, flash_attn=flash_attn,
        swa_full=pick.random() < 0.3, kv_unified=pick.random() < 0.6, op_offload=pick.random() < 0.5,
        kv_offload=pick.random() < 0.8,
    )  # fmt: skip


def dry_runs_of_plan_and_command(
    path: Path, profile: ModelProfile, placement: Placement, context: Context
) -> tuple[DryRunReply, DryRunReply, str]:
    """The dry run of a plan, the one of its emitted command, and the command."""
    cards = [next(card for card in CARDS if card.id == name) for name in placement.device_order]
    planned = worker.measure_placement(DryRunRequest(str(path), context, placement, cards))
    plan = saved_plan(CARDS, [0, 0, profile.n_layers], context=context)
    model = replace(plan.model, architecture=profile.architecture)
    command = command_line(replace(plan, placement=placement, model=model))
    return planned, dry_run(parse(command), path, CARDS), command


def differences(planned: DryRunReply, emitted: DryRunReply) -> list[str]:
    """The names of the figures that differ."""
    pairs = list(zip((*planned.devices, planned.host), (*emitted.devices, emitted.host), strict=True))
    bytes_names = ("weights_bytes", "context_bytes", "compute_bytes")
    split_names = ("graph_splits", "prompt_graph_splits")
    return [name for name in bytes_names if any(getattr(a, name) != getattr(b, name) for a, b in pairs)] + [
        name for name in split_names if getattr(planned, name) != getattr(emitted, name)
    ]
