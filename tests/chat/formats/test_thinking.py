"""Thinking in every place: opened by the prompt, by the model or by nobody, closed twice or never."""

import pytest

from tests.chat.formats.cuts import Parsed, calls, check
from vram_llm.chat.formats.hermes import hermes
from vram_llm.chat.formats.llama_json import llama_json
from vram_llm.chat.formats.thinking import plain, separate_leading_thinking, separate_thinking
from vram_llm.chat.formats.thinking_marks import DEFAULT, ThinkingMarks

CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
GEMMA = ThinkingMarks("<|channel>thought", "<channel|>", "<channel|>")
COHERE = ThinkingMarks(
    "<|START_THINKING|>",
    "<|END_THINKING|>",
    "<|END_THINKING|><|START_RESPONSE|>",
    answer="<|START_RESPONSE|>",
    end="<|END_RESPONSE|>",
)


@pytest.mark.parametrize(
    ("text", "opened", "parsed"),
    [
        ("<think>a</think>b", False, Parsed("b", "a")),
        ("a</think>b", True, Parsed("b", "a")),
        ("<think>a</think>b", True, Parsed("b", "a")),  # opened twice
        ("</think>b", True, Parsed("b")),
        ("b", False, Parsed("b")),
        ("\n b ", False, Parsed("\n b ")),
        ("<think>a</think>\n<think>b</think>\nc", False, Parsed("c", "a\n\nb")),
        ("a</think>\n\nb</think>\nc", True, Parsed("b\nc", "a")),  # closed twice
        ("</think>b", False, Parsed("b")),
        ("a <think>b</think> c", False, Parsed("a c", "b")),  # amid the answer
        ("a\n<think>b</think>\nc", False, Parsed("a\nc", "b")),
        ("a</think>b", False, Parsed("b", "a")),  # closed, never opened
        ("a\nb\n</think>\n\nb", False, Parsed("b", "a\nb")),
        ("a</think>b\n</think>\nc", False, Parsed("b\n\nc", "a")),
        ("a", True, Parsed(reasoning="a")),
        ("a</thin", True, Parsed(reasoning="a</thin")),
        ("Write `<think>` and `</think>`.", False, Parsed("Write `<think>` and `</think>`.")),
        ('"</think>" ends it', False, Parsed('"</think>" ends it')),
        ("A <think> opens it.", False, Parsed("A <think> opens it.")),  # and nothing closes it
        ("x\n```\n<think>\n</think>\n```\ny", False, Parsed("x\n```\n<think>\n</think>\n```\ny")),
    ],
)
@pytest.mark.parametrize("tools", [False, True])
def test_tags(text: str, opened: bool, parsed: Parsed, tools: bool) -> None:
    check(lambda: separate_thinking(DEFAULT, hermes if tools else plain, opened=opened), text, parsed)


def test_a_prompt_that_has_closed_the_thinking() -> None:
    check(lambda: separate_thinking(DEFAULT, plain, opened=False, closed=True), "a</think>b", Parsed("ab"))
    check(lambda: separate_thinking(DEFAULT, plain, opened=False, closed=True), "</think>\n\nb", Parsed("b"))


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (f"a</think>b\n{CALL}", calls(("now", "{}"), content="b", reasoning="a")),
        (f"a</think>\n{CALL}\n<think>b</think>\n{CALL}\n<think>c</think>d", None),
        (f"a\n{CALL}", calls(("now", "{}"), reasoning="a")),  # a call instead of the closing mark
        (f"{CALL}", calls(("now", "{}"))),
        (f"a {CALL} b</think>c", Parsed("c", f"a {CALL} b")),  # thought of, not made
        ("a <tool_call> b", Parsed(reasoning="a <tool_call> b")),
        (f"a <tool_call> b {CALL}", calls(("now", "{}"), reasoning="a <tool_call> b")),
    ],
)
def test_calls_and_thinking(text: str, parsed: Parsed | None) -> None:
    parsed = parsed or calls(("now", "{}"), ("now", "{}"), content="d", reasoning="a\n\nb\n\nc")
    check(lambda: separate_thinking(DEFAULT, hermes, opened=True), text, parsed)


@pytest.mark.parametrize("text", ["a</think>", "<think>a</think>\n"])
def test_a_call_that_is_the_whole_answer_after_thinking(text: str) -> None:
    check(
        lambda: separate_thinking(DEFAULT, llama_json(frozenset({"now"})), opened=True),
        text + '{"name": "now", "parameters": {}}',
        calls(("now", "{}"), reasoning="a"),
    )


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("<|channel>thought\na<channel|>b", Parsed("b", "a")),
        ("<|channel>thought<channel|>b", Parsed("b")),
        ("<|channel>thought\n<channel|>b<channel|>", Parsed("b")),
        ("<|channel>thought\n<channel|>b<|channel>thought\n<channel|><channel|>", Parsed("b")),
        ("b <|channel>thought\na<channel|>c", Parsed("b c", "a")),
        ("<|channel><|channel>thought\na<channel|>b", Parsed("b", "a")),
        ("b<|channel>", Parsed("b")),
    ],
)
def test_special_tokens_count_everywhere(text: str, parsed: Parsed) -> None:
    check(lambda: separate_thinking(GEMMA, plain, opened=False), text, parsed)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>b<|END_RESPONSE|>", Parsed("b", "a")),
        ("<|START_RESPONSE|>b<|END_RESPONSE|>", Parsed("b")),
        ("<|START_THINKING|>a<|END_THINKING|>b", Parsed("b", "a")),  # without the answer's marks
        ("a<|END_THINKING|><|START_RESPONSE|>b", Parsed("b", "a")),
        ("<|START_RESPONSE|>b<|END_RESPONSE|> c", Parsed("b")),  # past the end
        ("<|START_RESPONSE|>b<|END_RESPONSE|><|START_RESPONSE|>c<|END_RESPONSE|>", Parsed("bc")),
    ],
)
def test_marks_of_the_answer_are_dropped(text: str, parsed: Parsed) -> None:
    check(lambda: separate_thinking(COHERE, plain, opened=False), text, parsed)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("<|START_RESPONSE|>b<|END_RESPONSE|>", Parsed("b")),  # no thinking, though opened
        ("a<|START_RESPONSE|>b<|END_RESPONSE|>", Parsed("b", "a")),
        ("a<|END_THINKING|><|START_RESPONSE|>b<|END_THINKING|>c", Parsed("b", "a")),
    ],
)
def test_an_answer_that_begins_ends_the_thinking(text: str, parsed: Parsed) -> None:
    check(lambda: separate_thinking(COHERE, plain, opened=True), text, parsed)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("<think>a</think>b", Parsed("b", "a")),
        (" \n<think>a", Parsed(reasoning="a")),
        ("b <think>a</think>", Parsed("b <think>a</think>")),
        ("b</think>c", Parsed("b</think>c")),
        (" b\n", Parsed(" b\n")),
    ],
)
def test_a_model_not_known_to_think(text: str, parsed: Parsed) -> None:
    check(lambda: separate_leading_thinking(plain), text, parsed)


@pytest.mark.parametrize(
    ("marks", "prompt", "closed"),
    [
        (DEFAULT, "p", "p<think>\n\n</think>\n\n"),
        (DEFAULT, "p<think>\n", "p<think>\n\n</think>\n\n"),
        (DEFAULT, "p<think></think>", "p<think></think>"),
        (GEMMA, "p", "p<|channel>thought<channel|>"),
        (COHERE, "p<|START_THINKING|>", "p<|START_THINKING|><|END_THINKING|><|START_RESPONSE|>"),
        (
            COHERE,
            "p<|START_THINKING|><|END_THINKING|>",
            "p<|START_THINKING|><|END_THINKING|><|START_RESPONSE|>",
        ),
        (COHERE, "p<|START_RESPONSE|>", "p<|START_RESPONSE|>"),
    ],
)
def test_an_answer_begun(marks: ThinkingMarks, prompt: str, closed: str) -> None:
    assert marks.close_thinking(prompt) == closed
