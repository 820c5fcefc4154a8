"""Loads the draft model of a plan, and checks that it fits the model."""

from vram_llm.errors import BadPlan
from vram_llm.llama.bindings import C
from vram_llm.llama.devices import Servers
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.vocab import Vocab
from vram_llm.model.draft_compatibility import OF_ONE_FAMILY, DraftFacts, refusal
from vram_llm.planner.companions import draft_plan

_FIRST_COMPARED = 5  # SPEC_VOCAB_CHECK_START_TOKEN_ID of common/speculative.cpp: controls may differ


def load_draft(model: LoadedModel, servers: Servers) -> LoadedModel | None:
    """The draft model of a model's plan, or None if there is none; `servers` are the model's.

    Raises BadPlan if it cannot draft for the model, and all errors of loading a model.
    """
    plan = draft_plan(model.plan)
    if plan is None:
        return None
    draft = LoadedModel(plan, servers=servers, extra_buffers=model.extra_buffers)
    reason = refusal(_facts(model), _facts(draft)) or _other_token(model.vocab, draft.vocab)
    if reason is not None:
        draft.close()
        raise BadPlan(f"{plan.model.name} cannot draft for {model.plan.model.name}: {reason}")
    return draft


def _facts(model: LoadedModel) -> DraftFacts:
    vocab = model.vocab
    return DraftFacts(
        tokenizer=vocab.kind,
        n_tokens=vocab.n_tokens,
        bos=vocab.bos,
        eos=vocab.eos,
        adds_bos=vocab.adds_bos,
        adds_eos=vocab.adds_eos,
        can_rewind=model.cells.can_rewind,
    )


def _other_token(model: Vocab, draft: Vocab) -> str | None:
    """The first token that is another one in `draft`, which headers do not tell, and what to try; or None."""
    if model.kind == C.LLAMA_VOCAB_TYPE_NONE:
        return None
    for token in range(_FIRST_COMPARED, min(model.n_tokens, draft.n_tokens)):
        if model.name(token) != draft.name(token):
            names = [vocab.name(token).decode("utf-8", "replace") for vocab in (draft, model)]
            return f"its token {token} is {names[0]!r}, not {names[1]!r}; {OF_ONE_FAMILY}"
    return None
