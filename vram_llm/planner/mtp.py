"""MTP heads (multi-token prediction): a block of the model's own file that drafts tokens for it."""

from collections.abc import Callable
from dataclasses import replace

from vram_llm.model import rules
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.types import Context, Plan, Workload

MTP = "mtp"  # the draft model's name for the model's own head; llama-server: --spec-type draft-mtp
AUTO = "auto"  # in its place: the model's own head if its file has one, and it pays
NO_DRAFT = "none"  # in its place: no drafts, whatever `tune` has measured
MOST_DRAFTED = 8  # tokens at once, by a head of a model that can take back any number of tokens
MOST_DRAFTED_BY_STATES = 3  # by a head of a hybrid, which keeps a state for each: --spec-draft-n-max
EXPECTED_DRAFTED = 3  # tokens in a step, by which placements are compared
_F32_BYTES = 4


def has_draft(workload: Workload) -> bool:
    """Whether the user asks for drafts of a model or of a head."""
    return workload.draft not in (None, NO_DRAFT)


def mtp_refusal(profile: ModelProfile) -> str | None:
    """Why the engine does not draft with a model's own MTP head, by its file, and what to try; None: nothing.

    `llama_refusal` says whether llama.cpp computes the head.
    """
    n_blocks = profile.n_draft_layers
    has_head = any(
        "nextn.eh_proj" in tensor.name for layer in profile.layers[-n_blocks:] for tensor in layer.tensors
    )
    if not n_blocks or not has_head:
        return f"the file of {profile.name} has no MTP head; --draft takes a smaller model"
    if profile.architecture in rules.OWN_ROLLBACK:
        return (
            f"the engine takes no drafted tokens back from caches of {profile.architecture} models; "
            "plan without --draft"
        )
    return None


def llama_refusal(profile: ModelProfile, ask: Callable[[], str | None] | None) -> str | None:
    """Why llama.cpp does not compute a model's MTP head, and what to try; None if it does.

    `ask` gives its own answer; with None the answer is that of the version whose rules are in model/rules.py.
    """
    name, architecture = profile.name, profile.architecture
    if architecture in rules.MTP_WITHOUT_MROPE and profile.rope.is_mrope:
        return (
            f"{name} has positions for images (M-RoPE), with which llama.cpp ends at the first token that an "
            f"MTP head of {architecture} drafts; plan without --draft"
        )
    if ask is not None:
        reason = ask()
        return reason and f"the MTP head of {name} cannot draft: {reason}; plan without --draft"
    if architecture not in rules.MTP_GRAPHS:
        return f"llama.cpp does not compute MTP heads of {architecture} models; plan without --draft"
    if profile.n_draft_layers > 1 and architecture not in rules.SEVERAL_MTP_BLOCKS:
        return (
            f"{name} has {profile.n_draft_layers} MTP blocks, and llama.cpp computes one of {architecture} "
            "models; plan without --draft"
        )
    if not profile.can_rewind and architecture not in rules.STATE_ROLLBACK:
        return (
            f"{name} is recurrent, and llama.cpp cannot take drafted tokens back from states of "
            f"{architecture} models; plan without --draft"
        )
    return None


def most_drafted(profile: ModelProfile) -> int:
    """The most tokens that a model's head drafts at once."""
    return MOST_DRAFTED if profile.can_rewind else MOST_DRAFTED_BY_STATES


def head_costs_room(plain: Plan, drafting: Plan) -> bool:
    """Whether the plan with the head has more layers or moved weights on the host than the one without."""
    one, other = plain.placement, drafting.placement
    return other.cpu_layers > one.cpu_layers or len(other.overrides) > len(one.overrides)


def head_context(context: Context) -> Context:
    """The context of the MTP head of a model in `context`: as long, a row of logits for each sequence.

    Its batches are micro-batches: they hold the hidden states of prompts, which are long.
    """
    return replace(
        context,
        n_mtp=0,
        kv_type_k="f16",
        kv_type_v="f16",
        n_batch=context.n_ubatch,
        n_outputs_max=context.parallel,
        backend_sampling=False,
    )


def hidden_bytes(context: Context, n_embd: int) -> int:
    """Bytes on the host for hidden states of `n_embd` numbers, which llama.cpp's report leaves out.

    The model has one for each row of a batch, the head one for each row of logits
    (llama_context::output_reserve), and the head's batch one for each row (TokenBatch). 0 without a head.
    """
    if not context.n_mtp:
        return 0
    head = head_context(context)
    return _F32_BYTES * n_embd * (context.n_batch + head.n_outputs + head.n_batch)
