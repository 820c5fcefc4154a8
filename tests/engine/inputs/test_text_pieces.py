"""Tokens of pieces are those of the whole text, for texts that try every rule of the cuts."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.inputs.vocabularies import TEXTS, of_file, sentencepiece
from vram_llm import demo
from vram_llm.engine.inputs import text_pieces
from vram_llm.engine.inputs.text_pieces import PIECE_CHARS, TextPieces, tokenize_piece
from vram_llm.llama.vocab import Vocab


@pytest.fixture(
    scope="module", params=["llama", "llama with newlines", "phi-3", "phi-3 with newlines", "demo"]
)
def vocab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocab]:
    name, _, more = request.param.partition(" with ")
    if name == "demo":  # byte-level BPE
        with of_file(demo.path()) as found:
            yield found
        return
    path = tmp_path_factory.mktemp("vocabulary") / "a.gguf"
    with sentencepiece(path, name, has_newline="newlines" in more, has_tab="tabs" in more) as found:
        yield found


@pytest.mark.parametrize("parse_special", [False, True])
def test_cuts_change_no_token(vocab: Vocab, parse_special: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_pieces, "PIECE_CHARS", 7)
    monkeypatch.setattr(text_pieces, "_LOOK_CHARS", 6)
    drawn, cut = random.Random(1), TextPieces(vocab, parse_special=parse_special)
    texts, n_cuts = (*TEXTS, *(special.text for special in vocab.specials)), 0
    for _ in range(1500):
        few = drawn.sample(texts, drawn.randint(2, len(texts)))
        text = "".join(drawn.choice(few) * drawn.choice((1, 1, 1, 2, 5)) for _ in range(drawn.randint(1, 40)))
        pieces = list(cut(text))
        n_cuts += len(pieces) - 1
        assert "".join(text[piece.start : piece.end] for piece in pieces) == text
        found = [
            t for piece in pieces for t in tokenize_piece(vocab, text, piece, parse_special=parse_special)
        ]
        assert found == vocab.tokenize(text, add_special=False, parse_special=parse_special), repr(text)
    assert n_cuts > 300


@pytest.mark.parametrize("unit", ["\n", "\r", "</s>a", "word\n"])
@pytest.mark.parametrize("name", ["llama", "phi-3"])
def test_slow_texts_are_cut_into_small_pieces(unit: str, name: str, tmp_path: Path) -> None:
    with sentencepiece(tmp_path / "a.gguf", name, has_newline=False, has_tab=False) as vocab:
        text = unit * ((1 << 20) // len(unit))
        pieces = list(TextPieces(vocab, parse_special=True)(text))
        assert max(piece.end - piece.start for piece in pieces) < 2 * PIECE_CHARS
