"""Whether a model can draft tokens for another one, by facts from headers or from loaded models.

Source of the comparison: common_speculative_are_compatible in common/speculative.cpp.
"""

from dataclasses import dataclass
from typing import TypeVar

from vram_llm.model.file_kind import draft_head_of
from vram_llm.model.gguf import SkippedArray
from vram_llm.model.header import Header
from vram_llm.model.profile import ModelProfile

_MOST_MORE_TOKENS = 128  # SPEC_VOCAB_MAX_SIZE_DIFFERENCE of common/speculative.cpp: padding differs
OF_ONE_FAMILY = "take a smaller model of the same family"
_PREFIX = "tokenizer.ggml."

_Scalar = TypeVar("_Scalar", str, int, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftFacts:
    """The facts that decide whether a model can draft for another. None: unknown, which is no obstacle."""

    tokenizer: str | int | None  # its kind: a name in a file, a number in llama.cpp
    n_tokens: int | None
    bos: int | None
    eos: int | None
    adds_bos: bool | None
    adds_eos: bool | None
    can_rewind: bool  # its last tokens can be taken back


def head_refusal(draft: Header) -> str | None:
    """Why a file that is no whole model cannot draft, by its kind, and what to try; None if it is a model."""
    kind = draft_head_of(draft)
    if kind is None:
        return None
    return (
        f"{draft.path.name} is {kind}, which reads the model's hidden states and is not used for drafts; "
        "take a smaller model of the same family, or the model's own MTP head (mtp)"
    )


def facts_of(header: Header, profile: ModelProfile) -> DraftFacts:
    """The facts in a header, whose profile is `profile`. Headers do not hold all of a vocabulary."""
    tokens = header.metadata.get(f"{_PREFIX}tokens")
    return DraftFacts(
        tokenizer=_value(header, "model", str),
        n_tokens=tokens.count if isinstance(tokens, SkippedArray) else None,
        bos=_value(header, "bos_token_id", int),
        eos=_value(header, "eos_token_id", int),
        adds_bos=_value(header, "add_bos_token", bool),
        adds_eos=_value(header, "add_eos_token", bool),
        can_rewind=profile.can_rewind and profile.has_memory,
    )


def _value(header: Header, key: str, kind: type[_Scalar]) -> _Scalar | None:
    """A scalar of the tokenizer; None if it is missing or of another type."""
    value = header.metadata.get(_PREFIX + key)
    return value if isinstance(value, kind) else None


def refusal(model: DraftFacts, draft: DraftFacts) -> str | None:
    """Why the engine cannot let `draft` draft for `model`, and what to try; None if it can."""
    if not model.can_rewind:
        return "the latter is recurrent and cannot take drafted tokens back; plan without --draft"
    return mismatch(model, draft)


def mismatch(model: DraftFacts, draft: DraftFacts) -> str | None:
    """Why `draft` cannot draft for `model` in any program, and what to try; None if it can."""
    reason = None if draft.can_rewind else "it cannot take its drafted tokens back"
    reason = reason or _difference(model, draft)
    return reason and f"{reason}; {OF_ONE_FAMILY}"


def _difference(model: DraftFacts, draft: DraftFacts) -> str | None:
    """How the vocabularies differ."""
    if _differ(model.tokenizer, draft.tokenizer):
        return f"its tokenizer is of another kind ({draft.tokenizer}, not {model.tokenizer})"
    ends = (
        ("begins", model.adds_bos, draft.adds_bos, model.bos, draft.bos),
        ("ends", model.adds_eos, draft.adds_eos, model.eos, draft.eos),
    )
    for verb, adds, draft_adds, token, draft_token in ends:
        if _differ(adds, draft_adds):
            return f"it {verb} texts {'with' if draft_adds else 'without'} a token of its own"
        if adds is not False and draft_adds is not False and _differ(token, draft_token):
            return f"it {verb} texts with another token ({draft_token}, not {token})"
    if model.n_tokens is None or draft.n_tokens is None:
        return None
    if abs(model.n_tokens - draft.n_tokens) > _MOST_MORE_TOKENS:
        return f"it has {draft.n_tokens:,} tokens, not {model.n_tokens:,}"
    return None


def _differ(fact: object, other: object) -> bool:
    """Whether two known facts differ."""
    return fact is not None and other is not None and fact != other
