from dataclasses import replace

import pytest

from vram_llm.model.draft_compatibility import DraftFacts, mismatch, refusal

MODEL = DraftFacts(
    tokenizer="gpt2", n_tokens=128_000, bos=1, eos=2, adds_bos=True, adds_eos=False, can_rewind=True
)
UNKNOWN = DraftFacts(
    tokenizer=None, n_tokens=None, bos=None, eos=None, adds_bos=None, adds_eos=None, can_rewind=True
)


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (MODEL, None),
        (UNKNOWN, None),
        (replace(MODEL, n_tokens=128_128), None),
        (replace(MODEL, n_tokens=127_871), "it has 127,871 tokens, not 128,000"),
        (replace(MODEL, tokenizer="llama"), "its tokenizer is of another kind (llama, not gpt2)"),
        (replace(MODEL, bos=7), "it begins texts with another token (7, not 1)"),
        (replace(MODEL, bos=7, adds_bos=None), "it begins texts with another token (7, not 1)"),
        (replace(MODEL, adds_bos=False), "it begins texts without a token of its own"),
        (replace(MODEL, adds_eos=True), "it ends texts with a token of its own"),
        (replace(MODEL, eos=7), None),  # neither adds it
        (replace(MODEL, can_rewind=False), "it cannot take its drafted tokens back"),
    ],
)
def test_a_draft_model_has_the_vocabulary_of_its_model(draft: DraftFacts, reason: str | None) -> None:
    expected = None if reason is None else f"{reason}; take a smaller model of the same family"
    assert mismatch(MODEL, draft) == refusal(MODEL, draft) == expected


def test_nothing_drafts_here_for_a_model_that_cannot_rewind() -> None:
    recurrent = replace(MODEL, can_rewind=False)
    assert mismatch(recurrent, MODEL) is None  # other programs may
    assert "plan without --draft" in (refusal(recurrent, MODEL) or "")
