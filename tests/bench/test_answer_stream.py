"""Which events of a stream are tokens."""

import json
from typing import Any

import pytest

from vram_llm.bench.answer_stream import AnswerStream, error_text
from vram_llm.bench.outcome import RequestOutcome

DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


def delta(finish_reason: str | None = None, **fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish_reason}], usage=None)


def text(words: str, finish_reason: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "text": words, "logprobs": None, "finish_reason": finish_reason}])


def read(*pieces: bytes) -> RequestOutcome:
    """The outcome of pieces that came a second apart."""
    outcome = RequestOutcome(7)
    stream = AnswerStream(outcome)
    for i, piece in enumerate(pieces):
        stream.feed(piece, float(i))
    assert stream.is_done
    return outcome


USAGE = event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12})


def test_a_completion() -> None:
    outcome = read(text("a"), b": still here\n\n", text("b"), text("c", "length"), USAGE, DONE)
    assert outcome.token_times == [0, 2, 3]
    assert (outcome.prompt_tokens, outcome.output_tokens, outcome.text) == (9, 3, "abc")


def test_a_token_without_text_counts_and_the_end_does_not() -> None:
    assert read(text("a"), text(""), text("", "stop"), DONE).token_times == [0, 1]


def test_a_chat() -> None:
    begin = delta(role="assistant", content=None)
    thought, other = delta(reasoning_content="hm"), delta(reasoning="hm")
    call = delta(tool_calls=[{"index": 0, "function": {"arguments": "{"}}])
    outcome = read(begin, thought, other, delta(content="a"), call, delta("stop"), USAGE, DONE)
    assert outcome.token_times == [1, 2, 3, 4]
    assert read(delta(role="assistant", content="a"), DONE).token_times == [0]
    assert read(delta(role="assistant", content=""), delta(content="a"), DONE).token_times == [1]


def test_any_cut_and_line_ends_of_windows() -> None:
    whole = b"".join((text("a"), text("ü"), text("c"), DONE)).replace(b"\n", b"\r\n")
    for cut in range(1, len(whole) - 1):
        outcome = read(whole[:cut], whole[cut:])
        assert outcome.text == "aüc"
        assert not outcome.error


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (event(error={"message": "out of memory", "type": "server_error"}), "out of memory"),
        (event(error="gone"), "gone"),
        (b"data: {\n\n", "no chunk of a completion"),
        (event(choices=[{"text": 5}]), "no chunk of a completion"),
    ],
)
def test_errors_in_a_stream(bad: bytes, message: str) -> None:
    outcome = read(text("a"), bad, DONE)
    assert message in outcome.error
    assert not outcome.is_complete
    assert outcome.n_output == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "no", "code": 5}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"<html>\n", "<html>"),
        (b'{"other": 1}', '{"other":1}'),
    ],
)
def test_sentences_of_errors(body: bytes, message: str) -> None:
    assert error_text(body) == message
