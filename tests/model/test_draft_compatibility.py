from dataclasses import replace
from pathlib import Path

import pytest

from tests.zoo.writer import Model, write
from vram_llm.model.draft_compatibility import DraftFacts, head_refusal, mismatch, refusal
from vram_llm.model.header_reader import read_header

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


@pytest.mark.parametrize(
    ("arch", "tensor", "kind"),
    [
        ("eagle3", "blk.0.attn_norm.weight", "an EAGLE-3 head"),
        ("dflash", "blk.0.attn_norm.weight", "a DFlash head"),
        ("dflash", "markov_w1.weight", "a DSpark head"),
        ("gemma4-assistant", "blk.0.attn_norm.weight", "a Gemma 4 assistant head"),
        ("qwen35", "blk.4.nextn.eh_proj.weight", "an MTP head without its model"),
        ("qwen35", "blk.0.attn_norm.weight", None),
    ],
)
def test_a_head_in_a_file_of_its_own_is_named(
    tmp_path: Path, arch: str, tensor: str, kind: str | None
) -> None:
    model = Model(arch, {"block_count": 5}, {tensor: (32,)})
    reason = head_refusal(read_header(write(model, tmp_path / "head.gguf")))
    assert (reason is None) == (kind is None)
    assert kind is None or f"head.gguf is {kind}" in str(reason)
