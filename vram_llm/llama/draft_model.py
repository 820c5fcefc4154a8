"""Loads the draft model of a plan, and checks that it fits the model."""

from vram_llm.errors import BadPlan
from vram_llm.llama.bindings import C
from vram_llm.llama.devices import Servers
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.vocab import Vocab
from vram_llm.model.drafts import MOST_MORE_TOKENS
from vram_llm.planner.companions import draft_plan

_FIRST_COMPARED = 5  # SPEC_VOCAB_CHECK_START_TOKEN_ID of common/speculative.cpp: controls may differ


def load_draft(model: LoadedModel, servers: Servers) -> LoadedModel | None:
    """The draft model of a model's plan, or None where there is none; `servers` are the model's.

    Raises BadPlan where it cannot draft for the model, and all errors of loading a model.
    """
    plan = draft_plan(model.plan)
    if plan is None:
        return None
    draft = LoadedModel(plan, servers=servers)
    said = _objection(model, draft)
    if said is not None:
        draft.close()
        raise BadPlan(f"{plan.model.name} cannot draft for {model.plan.model.name}: {said}")
    return draft


def _objection(model: LoadedModel, draft: LoadedModel) -> str | None:
    if not model.cells.can_rewind:
        return "the latter is recurrent and cannot take drafted tokens back; serve it without --draft"
    if not draft.cells.can_rewind:
        return "the former is recurrent and cannot take its guesses back; draft with another model"
    said = difference(model.vocab, draft.vocab)
    return None if said is None else f"{said}; draft with a model of the same vocabulary"


def difference(one: Vocab, other: Vocab) -> str | None:
    """How the vocabulary `other` differs from `one`, or None.

    Source: common_speculative_are_compatible in common/speculative.cpp.
    """
    if one.kind != other.kind:
        return "its tokenizer is of another kind"
    if (one.adds_bos, one.adds_bos and one.bos) != (other.adds_bos, other.adds_bos and other.bos):
        return "it begins texts otherwise"
    if (one.adds_eos, one.adds_eos and one.eos) != (other.adds_eos, other.adds_eos and other.eos):
        return "it ends texts otherwise"
    if abs(one.n_tokens - other.n_tokens) > MOST_MORE_TOKENS:
        return f"it has {other.n_tokens:,} tokens, not {one.n_tokens:,}"
    if one.kind == C.LLAMA_VOCAB_TYPE_NONE:
        return None
    for token in range(_FIRST_COMPARED, min(one.n_tokens, other.n_tokens)):
        if one.name(token) != other.name(token):
            names = [each.name(token).decode("utf-8", "replace") for each in (other, one)]
            return f"its token {token} is {names[0]!r}, not {names[1]!r}"
    return None
