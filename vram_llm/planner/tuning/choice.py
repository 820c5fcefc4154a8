"""The points of a workload that `tune` decides by measuring."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from vram_llm.planner.llama_split import split_of
from vram_llm.planner.mtp import AUTO, MTP, NO_DRAFT
from vram_llm.planner.overrides import Override
from vram_llm.planner.tensor_split import SplitChoice, SplitMode, TensorSplit
from vram_llm.planner.types import HOST, Context, FlashAttention, Placement, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedChoice:
    """The wishes that make the planner plan one candidate. None leaves a point as the user's workload has it.

    A field has the name and the meaning of the Workload's field; only `tensor_split` is text. A `draft` of
    None means the workload's draft model if it names one, else no drafts; it is never `auto`.
    """

    tensor_split: str | None = None
    split_mode: SplitMode | None = None
    n_gpu_layers: int | None = None
    overrides: tuple[Override, ...] | None = None
    n_batch: int | None = None
    n_ubatch: int | None = None
    n_threads: int | None = None
    n_threads_batch: int | None = None
    op_offload: bool | None = None
    pipeline_copies: bool | None = None
    flash_attn: FlashAttention | None = None
    kv_type_k: str | None = None
    kv_type_v: str | None = None
    draft: str | None = None


def choice_of(placement: Placement, context: Context, n_threads: int | None = None) -> TunedChoice:
    """The wishes that lead to this placement and context; `n_threads` of None leaves the threads open."""
    split = split_of(placement)
    return TunedChoice(
        tensor_split=None if split is None else str(split),
        split_mode=placement.split_mode,
        n_gpu_layers=placement.n_gpu_layers,
        overrides=placement.overrides,
        n_batch=context.n_batch,
        n_ubatch=context.n_ubatch,
        n_threads=n_threads,
        op_offload=context.op_offload,
        pipeline_copies=context.pipeline_copies,
        flash_attn=context.flash_attn,
        kv_type_k=context.kv_type_k,
        kv_type_v=context.kv_type_v,
        draft=MTP if context.n_mtp else None,
    )


def workload_of(workload: Workload, choice: TunedChoice, n_ctx: int) -> Workload:
    """`workload` with these wishes in a context of `n_ctx` tokens. Raises BadSplit."""
    wishes = {each.name: getattr(choice, each.name) for each in fields(choice)}
    given = {name: value for name, value in wishes.items() if value is not None}
    if choice.tensor_split is not None:
        given["tensor_split"] = TensorSplit.parse(choice.tensor_split)
    if choice.split_mode is not None:
        given["split_mode"] = SplitChoice(choice.split_mode.value)
    if choice.draft is None and workload.draft in (AUTO, MTP):
        given["draft"] = NO_DRAFT
    return replace(workload, n_ctx=n_ctx, largest_ctx=False, use_tuned=False, **given)


def renamed(choice: TunedChoice, ids: Mapping[str, str]) -> TunedChoice:
    """`choice` with other ids for the same devices: each old id with the new one. Raises BadSplit."""
    split = None
    if choice.tensor_split is not None:
        parsed = TensorSplit.parse(choice.tensor_split)
        names = tuple(ids.get(name, name) for name in parsed.devices or ())
        split = str(TensorSplit(parsed.shares, names or None))
    overrides = choice.overrides and tuple(
        replace(each, device=HOST if each.device == HOST else ids.get(each.device, each.device))
        for each in choice.overrides
    )
    return replace(choice, tensor_split=split, overrides=overrides)
