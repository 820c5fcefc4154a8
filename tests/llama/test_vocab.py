"""Tokens to text: whole characters only, nothing past a stop string, however the text falls into tokens."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import PlanOnCpu
from vram_llm import demo
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.vocab import TextStream, Vocab


class Pieces(Vocab):
    """A vocabulary of the given pieces: token i is piece i."""

    def __init__(self, *pieces: bytes) -> None:
        self._all = pieces

    def piece(self, token: int) -> bytes:
        return self._all[token]


def _stream(pieces: list[bytes], *stop: str) -> list[str]:
    """The text that each piece makes final, and at last the end; nothing is pushed after a stop."""
    stream, said = TextStream(Pieces(*pieces), stop), []
    for token in range(len(pieces)):
        said.append(stream.push(token))
        if stream.stopped:
            break
    return [*said, stream.finish()]


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([b"a", b"b"], ["a", "b", ""]),
        ([b"\xc3", b"\xa9"], ["", "é", ""]),
        (["🙂".encode()[:1], "🙂".encode()[1:3], "🙂".encode()[3:] + b"!"], ["", "", "🙂!", ""]),
        ([b"a\xe4\xb8", b"\x96\xe7", b"\x95\x8c"], ["a", "世", "界", ""]),
        ([b"\xf0\x9f"], ["", "�"]),  # an end inside a character
        ([b"\xff", b"a"], ["�", "a", ""]),  # bytes no character has
        ([b"\xc3", b"a"], ["", "�a", ""]),
        ([b"", b""], ["", "", ""]),
        ([], [""]),
    ],
)
def test_only_whole_characters_come_out(pieces: list[bytes], said: list[str]) -> None:
    assert _stream(pieces) == said


@pytest.mark.parametrize(
    ("pieces", "stop", "said"),
    [
        ([b"one STOP two"], ["STOP"], ["one ", ""]),
        ([b"one S", b"TO", b"P two"], ["STOP"], ["one ", "", "", ""]),
        ([b"one S", b"TO", b"RM"], ["STOP"], ["one ", "", "STORM", ""]),
        ([b"one ST"], ["STOP"], ["one ", "ST"]),
        ([b"STOP"], ["STOP"], ["", ""]),
        ([b"ab", b"ab", b"ac"], ["abac"], ["", "ab", "", ""]),  # a false start inside the right one
        ([b"aa", b"ab"], ["aab"], ["", "a", ""]),
        ([b"x\n", b"\n", b"y"], ["\n\n"], ["x", "", ""]),
        ([b"say END", b"."], ["END", "ND."], ["say ", ""]),
        ([b"abc"], ["bc", "abc"], ["", ""]),  # both end here: the longer one is cut
        ([b"abcd"], ["abcde", "b"], ["a", ""]),
        ([b"abc"], ["abc", "b"], ["a", ""]),  # the shorter one is complete first
        ([b"ab", b"c"], ["abc", "b"], ["a", ""]),
        ([b"\xe4\xb8", b"\x96x"], ["世"], ["", "", ""]),
        ([b"caf", b"\xc3", b"\xa9", b" noir"], ["é n"], ["caf", "", "", "", ""]),
        ([b"\xf0\x9f"], ["�"], ["", ""]),  # completed by the end itself
    ],
)
def test_stop_strings(pieces: list[bytes], stop: list[str], said: list[str]) -> None:
    assert _stream(pieces, *stop) == said


def test_a_stream_says_whether_it_stopped() -> None:
    stream = TextStream(Pieces(b"a", b"b", b"c"), ("bc",))
    assert [(stream.push(token), stream.stopped) for token in range(3)] == [
        ("a", False),
        ("", False),
        ("", True),
    ]
    assert (stream.finish(), stream.push(0)) == ("", "")


def _cut(text: str, stops: list[str]) -> str:
    """`text` up to the stop string that is complete first, the longest of those that end there."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text.endswith(stop, 0, end)]
        if starts:
            return text[: min(starts)]
    return text


_text = st.text("abé", max_size=12)
_stops = st.lists(st.text("abé", min_size=1, max_size=4), max_size=4)


@settings(max_examples=400)
@given(_text, _stops, st.data())
def test_how_the_text_falls_into_tokens_does_not_matter(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=4)) | {0, len(raw)})
    pieces = [raw[a:b] for a, b in pairwise(cuts)]
    said = _stream(pieces, *stops)
    assert "".join(said) == _cut(text, stops)


@given(_text, _stops)
def test_no_more_is_held_back_than_could_become_a_stop(text: str, stops: list[str]) -> None:
    stream, said = TextStream(Pieces(*(char.encode() for char in text)), tuple(stops)), ""
    for i in range(len(text)):
        said += stream.push(i)
        held = text[len(said) : i + 1]
        if stream.stopped:
            break
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


@pytest.fixture(scope="module")
def demo_model(plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    """The built-in model, for its real byte-level BPE vocabulary."""
    loaded = LoadedModel(plan_on_cpu(demo.path()))
    yield loaded
    loaded.close()


@pytest.mark.parametrize(
    "text",
    ["Hello, world", "Grüße, 世界 🙂", "two\n\n  lines\tand a tab", "a\0b", "\ud800", "w1 w2 </s> <s>"],
)
def test_text_survives_tokenising(demo_model: LoadedModel, text: str) -> None:
    """But for a lone surrogate, which UTF-8 cannot write."""
    tokens = demo_model.vocab.tokenize(text, add_special=False, parse_special=False)
    written = b"".join(map(demo_model.vocab.piece, tokens)).decode()
    assert written == text.encode("utf-8", "replace").decode()


def test_special_tokens(model: LoadedModel) -> None:
    vocab = model.vocab
    assert (vocab.bos, vocab.eos, vocab.n_tokens) == (1, 2, 320)
    assert vocab.tokenize("", add_special=True) == [vocab.bos]
    assert vocab.tokenize("", add_special=False) == []
    assert vocab.tokenize("</s>", add_special=False) == [vocab.eos]
    assert vocab.eos not in vocab.tokenize("</s>", add_special=False, parse_special=False)
    assert [vocab.is_end(token) for token in (vocab.bos, vocab.eos, 100)] == [False, True, False]
    assert [vocab.text_of(token) for token in (vocab.bos, vocab.eos, -1)] == ["<s>", "</s>", ""]
    assert vocab.piece(vocab.eos) == b""


def test_a_long_text_is_tokenised_whole(demo_model: LoadedModel) -> None:
    text = " memory 世" * 5000
    tokens = demo_model.vocab.tokenize(text, add_special=False)
    assert len(tokens) > 10_000
    assert b"".join(map(demo_model.vocab.piece, tokens)).decode() == text


def test_a_text_may_take_more_tokens_than_it_has_bytes(model: LoadedModel) -> None:
    """SentencePiece puts a space in front, which this vocabulary spells in three tokens."""
    assert len(model.vocab.tokenize("a", add_special=True)) == 5


def test_marks_are_shown_and_no_other_control_token(model: LoadedModel) -> None:
    vocab = model.vocab
    marks = vocab.marks(("</s>", "no token of its own"))
    assert marks == {vocab.eos}
    a = next(token for token in range(vocab.n_tokens) if vocab.piece(token) == b"a")
    stream = TextStream(vocab, marks=marks)
    assert "".join(stream.push(token) for token in (vocab.bos, a, vocab.eos, a)) == "a</s>a"


def test_what_is_plain_of_a_token_is_what_a_stream_says_of_it(model: LoadedModel) -> None:
    """Once all are noted; tokens that are not ASCII, are shown only to some, or end an answer have none."""
    vocab = model.vocab
    while vocab.note_more():
        pass
    assert not vocab.note_more()
    plain = {token: text for token, text in enumerate(vocab.plain) if text}
    assert len(plain) > 100
    for token, text in plain.items():
        for shown in (True, False):
            stream = TextStream(vocab, show_special=shown)
            assert stream.is_plain
            assert stream.push(token) == text
            assert stream.is_plain
    assert not plain.keys() & vocab.ends
    assert not any(vocab.is_special(token) for token in plain)
    assert all(plain.get(token) is None for token in vocab.marks(("<s>", "</s>")))


def test_a_stream_is_plain_where_nothing_is_held_back(model: LoadedModel) -> None:
    assert not TextStream(model.vocab, ("stop",)).is_plain
    stream = TextStream(model.vocab)
    first, *rest = model.vocab.tokenize("\N{SNOWMAN}", add_special=False)[-3:]
    stream.push(first)
    assert not stream.is_plain
    assert "".join(map(stream.push, rest)) == "\N{SNOWMAN}"
    assert stream.is_plain
