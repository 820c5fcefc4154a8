"""MTP heads (multi-token prediction): a block of the model's own file that drafts tokens for it."""

from dataclasses import replace

from vram_llm.model import rules
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.types import Context, Plan

MTP = "mtp"  # the draft model's name for the model's own head; llama-server: --spec-type draft-mtp
AUTO = "auto"  # in its place: the model's own head if its file has one, and it pays
WORTH_DRAFTING = 1.1  # predicted gain from which on `auto` takes the head
MOST_DRAFTED = 8  # tokens at once, by a head of a model that can take back any number of tokens
MOST_DRAFTED_BY_STATES = 3  # by a head of a hybrid, which keeps a state for each: --spec-draft-n-max
_F32_BYTES = 4
_ACCEPTANCE_RATE = (
    0.7  # of a draft token whose predecessors were accepted; assumed, as by the engine at first
)
_LEAST_ROW = 0.05  # of a step, for one more row


def mtp_refusal(profile: ModelProfile) -> str | None:
    """Why the engine cannot draft with a model's own MTP head, and what to try; None if it can."""
    name, n_blocks = profile.name, profile.n_draft_layers
    has_head = any(
        "nextn.eh_proj" in tensor.name for layer in profile.layers[-n_blocks:] for tensor in layer.tensors
    )
    if not n_blocks or not has_head:
        return f"the file of {name} has no MTP head; --draft takes a smaller model"
    if profile.architecture not in rules.MTP_GRAPHS:
        return f"llama.cpp does not compute MTP heads of {profile.architecture} models; plan without --draft"
    if n_blocks > 1 and profile.architecture not in rules.SEVERAL_MTP_BLOCKS:
        return (
            f"{name} has {n_blocks} MTP blocks, and llama.cpp computes one of {profile.architecture} models; "
            "plan without --draft"
        )
    if not profile.can_rewind and profile.architecture not in rules.STATE_ROLLBACK:
        return (
            f"{name} is recurrent, and llama.cpp cannot take drafted tokens back from states of "
            f"{profile.architecture} models; plan without --draft"
        )
    return None


def most_drafted(profile: ModelProfile) -> int:
    """The most tokens that a model's head drafts at once."""
    return MOST_DRAFTED if profile.can_rewind else MOST_DRAFTED_BY_STATES


def expected_gain(profile: ModelProfile) -> float:
    """Tokens per second of one stream with the model's head, against without, from bytes read for a step.

    A drafted token costs what the head and the output read, and a row of the model: its other experts. Seven
    of ten drafts are assumed to be accepted; the engine measures that, and drafts less where they are not.
    """
    active = profile.active_bytes_per_token
    used = profile.n_expert_used / profile.n_expert if profile.n_expert else 0.0
    blocks = [layer for layer in profile.layers if layer.is_draft][:1]
    head = sum(layer.bytes - layer.expert_bytes * (1 - used) for layer in blocks)
    head += profile.token_embd_bytes if profile.tied_output else profile.output_bytes
    experts = sum(layer.expert_bytes for layer in profile.layers if not layer.is_draft) * used
    price = (head + experts * (1 - used)) / active + _LEAST_ROW
    return max(
        sum(_ACCEPTANCE_RATE**i for i in range(n + 1)) / (1 + n * price)
        for n in range(1 + most_drafted(profile))
    )


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
