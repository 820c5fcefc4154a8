"""For any output of a model: no exception, the same for every cut, and nothing that clients cannot encode."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chat.formats.cuts import SCHEMAS, run
from vram_llm.chat.formats import deepseek, harmony, mistral
from vram_llm.chat.formats.deepseek import CALL, CALL_END, CALLS, CALLS_END, SEP
from vram_llm.chat.formats.glm import glm
from vram_llm.chat.formats.hermes import hermes
from vram_llm.chat.formats.llama_json import llama_json
from vram_llm.chat.formats.tagged import QWEN, tagged
from vram_llm.chat.formats.thinking import thinking
from vram_llm.chat.reader import ParseFunction, Parser

JSON = (
    '{"name": "',
    "now",
    '", ',
    '"arguments": ',
    "{",
    "}",
    '"a": ',
    "[",
    "]",
    ",",
    '"',
    "\\",
    "\\ud800",
    "1e5",
)
PARSERS: dict[str, tuple[Callable[[], ParseFunction], tuple[str, ...]]] = {
    "hermes": (lambda: hermes, ("<tool_call>", "</tool_call>", *JSON)),
    "thinking": (
        lambda: thinking("<think>", "</think>", hermes, opened=False),
        ("<think>", "</think>", "<tool_call>", *JSON),
    ),
    "qwen": (
        lambda: tagged(QWEN, SCHEMAS),
        (
            "<tool_call>",
            "<function=",
            "now",
            ">",
            "\n",
            "<parameter=",
            "a",
            "</parameter>",
            "</function>",
            "True",
        ),
    ),
    "glm": (
        lambda: glm(SCHEMAS),
        (
            "<tool_call>",
            "</tool_call>",
            "now",
            "<arg_key>",
            "</arg_key>",
            "<arg_value>",
            "</arg_value>",
            "[" * 99,
        ),
    ),
    "llama": (lambda: llama_json(frozenset({"now"})), ("<|python_tag|>", ";", *JSON)),
    "mistral": (lambda: mistral.mistral, ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", *JSON)),
    "deepseek": (
        lambda: deepseek.deepseek,
        (CALLS, CALL, SEP, CALL_END, CALLS_END, "function", "```", *JSON),
    ),
    "harmony": (
        lambda: harmony.harmony,
        (
            "<|start|>",
            "<|channel|>",
            "analysis",
            " to=functions.",
            "<|message|>",
            "<|end|>",
            "<|call|>",
            *JSON,
        ),
    ),
}


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_anything(name: str, data: st.DataObject) -> None:
    parse, words = PARSERS[name]
    word = st.one_of(st.sampled_from(words), st.text(alphabet=" \nax{}é😀<", max_size=4))
    pieces = data.draw(st.lists(word, max_size=20))
    parsed = run(Parser(parse()), pieces)
    assert parsed == run(Parser(parse()), ["".join(pieces)]) == run(Parser(parse()), "".join(pieces))
    for index in parsed.whole:
        assert isinstance(json.loads(parsed.calls[index][1]), dict)
    if not parsed.calls and name not in ("thinking", "harmony"):
        assert parsed.content == "".join(pieces)
    f"{parsed}".encode()


@pytest.mark.parametrize("name", PARSERS)
def test_long_garbage_is_read_quickly(name: str) -> None:
    parse, words = PARSERS[name]
    text = "".join(words) * 300
    run(Parser(parse()), [text[at : at + 7] for at in range(0, len(text), 7)])
