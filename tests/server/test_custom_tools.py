"""The text of a custom tool, read from the arguments of a call."""

import json

import pytest

from vram_llm.server.custom_tools import CustomInputReader, arguments_of, text_of


@pytest.mark.parametrize("text", ["", 'a "b" \\ c\n\t', "é 😀 \u0001", "\\u1234", '"}', "x" * 50])
@pytest.mark.parametrize("as_ascii", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_same_for_any_cut(text: str, as_ascii: bool, size: int) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=as_ascii)
    reader = CustomInputReader()
    pieces = [reader.feed(arguments[i : i + size]) for i in range(0, len(arguments), size)]
    assert "".join([*pieces, reader.finish()]) == reader.text == text


@pytest.mark.parametrize("arguments", ['{"patch": "x"}', "{}", '{"input": 3}', "[1", ""])
def test_arguments_of_another_form_are_the_text(arguments: str) -> None:
    reader = CustomInputReader()
    assert reader.feed(arguments) == ""
    assert reader.finish() == arguments


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "ab', "ab"),
        ('{"input": "ab\\', "ab"),
        ('{"input": "ab\\u00', "ab"),
        ('{"input": "ab\\ud83d', "ab"),
        ('{"input": "ab\\ud83d\\ude', "ab"),
        ('{"input": "a\nb"}', "a\nb"),
        ('{"input": "ab"} and more', "ab"),
        ('{"input": "ab", "input": "c"}', "ab"),
        ('{"input": "", "input": "c"}', ""),
        (r'{"input": "\d+"}', r"\d+"),
        (r'{"input": "a\q b"}', r"a\q b"),
        (r'{"input": "a\q \"b\"" }', r"a\q \"b\""),
        (r'{"input": "a\q b', r"a\q b"),
        (r'{"input": "a\q \\"} and more', r"a\q \\"),
        (r'{"input": "a\ud800 b"}', r"a\ud800 b"),
        (r'{"input": "a\udc00 b"}', r"a\udc00 b"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_stream_and_a_whole_answer_have_the_same_text_of_broken_arguments(
    arguments: str, text: str, size: int
) -> None:
    reader = CustomInputReader()
    pieces = [reader.feed(arguments[i : i + size]) for i in range(0, len(arguments), size)]
    assert "".join([*pieces, reader.finish()]) == reader.text == text_of(arguments) == text


def test_there_and_back() -> None:
    assert text_of(arguments_of('a\n"b"')) == 'a\n"b"'
