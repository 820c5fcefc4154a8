"""The answers that grammars of tools accept, in every format: marks as tokens, and as text."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.server.grammars import (
    ANSWER,
    BAD,
    CITY,
    CONSTRAINABLE,
    FREE,
    GOOD,
    THINKS,
    USE,
    call_of,
    follower,
    lead_of,
    prompt_of,
)
from vram_llm.chat.events import CallStart
from vram_llm.chat.formats.call_format import CallFormat
from vram_llm.chat.formats.table import FORMATS, NONE
from vram_llm.chat.tag_grammar import GLM
from vram_llm.engine.request import Grammar, GrammarKind
from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported
from vram_llm.server.tool_grammars import answer_or_calls_grammar, forced_grammar, strict_grammar
from vram_llm.server.tools import ToolUse


@pytest.mark.parametrize("as_tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("form", CONSTRAINABLE, ids=lambda f: f.name)
def test_arguments_are_constrained_from_the_mark_on(form: CallFormat, as_tokens: bool) -> None:
    prompt, grammar = strict_grammar(prompt_of(form), USE)
    accepts = follower(grammar, (*form.marks, *THINKS) if as_tokens else ())
    lead = lead_of(form)
    assert accepts(lead + call_of(prompt, "weather", GOOD))
    assert not accepts(lead + call_of(prompt, "weather", BAD))
    assert accepts(lead + call_of(prompt, "free", FREE))
    assert accepts(lead + call_of(prompt, "now", "{}"))
    assert not accepts(lead + call_of(prompt, "now", FREE))
    assert not accepts(lead + call_of(prompt, "other", FREE))


@pytest.mark.parametrize("form", CONSTRAINABLE, ids=lambda f: f.name)
def test_answers_of_the_grammar_are_read(form: CallFormat) -> None:
    prompt, _ = strict_grammar(prompt_of(form), USE)
    parser = prompt.parser(USE.schemas)
    assert parser is not None
    parsed = parser.feed(lead_of(form) + call_of(prompt, "weather", GOOD)) + parser.finish()
    assert [type(event).__name__ for event in parsed][-3:] == ["CallStart", "CallArguments", "CallEnd"]
    assert next(event.name for event in parsed if isinstance(event, CallStart)) == "weather"


@pytest.mark.parametrize("as_tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("form", CONSTRAINABLE, ids=lambda f: f.name)
def test_there_is_no_other_way_into_a_call(form: CallFormat, as_tokens: bool) -> None:
    """A part of a call after other marks is not accepted, or is not read as a call."""
    prompt, grammar = strict_grammar(prompt_of(form), USE)
    accepts = follower(grammar, (*form.marks, *THINKS) if as_tokens else ())
    bad = call_of(prompt, "weather", BAD)
    begins = {bad.index(mark) + len(mark) for mark in form.marks if mark in bad} | {0, bad.index("weather")}
    for mark in ("", *form.marks):
        for begin in begins:
            text = f"{mark}{bad[begin:]}"
            parser = prompt.parser(USE.schemas)
            assert parser is not None
            parsed = parser.feed(text) + parser.finish()
            assert not any(isinstance(event, CallStart) for event in parsed) or not accepts(text)


@pytest.mark.parametrize("form", [f for f in CONSTRAINABLE if lead_of(f)], ids=lambda f: f.name)
def test_no_special_token_separates_a_trigger_from_its_call(form: CallFormat) -> None:
    """If the trigger is text, the parser would not see the call."""
    prompt, grammar = strict_grammar(prompt_of(form), USE)
    accepts = follower(grammar, ("<|other|>",))
    assert accepts(f"One<|other|>two {call_of(prompt, 'weather', GOOD)}<|other|>three")
    bad = call_of(prompt, "weather", BAD)
    call_json, layout = prompt.dialect.call_json, prompt.dialect.form.layout
    trigger = call_json.trigger if call_json is not None else GLM.call if layout is None else layout.call
    assert not accepts(bad.replace(trigger, f"{trigger}<|other|>"))


@pytest.mark.parametrize("as_tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize(
    "form", [f for f in CONSTRAINABLE if lead_of(f)], ids=lambda f: f.name
)  # fmt: skip
def test_thinking_and_text_are_free(form: CallFormat, as_tokens: bool) -> None:
    marks = (*form.marks, *THINKS) if as_tokens else ()
    prompt, grammar = strict_grammar(prompt_of(form), USE)
    good, bad = call_of(prompt, "weather", GOOD), call_of(prompt, "weather", BAD)
    accepts = follower(grammar, marks)
    assert accepts('No call {"city": 1} at all.')
    assert accepts("<think>Never closed")
    assert accepts(f"<think>Hm.</think>\n\nWait. {good}\n{good} Done.")
    assert not accepts(f"<think>Hm.</think>{bad}")
    assert not accepts(f"{good} and {bad}")
    opened = follower(strict_grammar(prompt_of(form, "Say.<think>\n"), USE)[1], marks)
    assert opened(f"Hm.</think>Wait. {good}")
    assert opened("Hm.")
    assert not opened(f"Hm.</think>{bad}")


@pytest.mark.parametrize("as_tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("form", CONSTRAINABLE, ids=lambda f: f.name)
def test_a_call_or_an_answer_of_a_form(form: CallFormat, as_tokens: bool) -> None:
    prompt, grammar = answer_or_calls_grammar(prompt_of(form), USE, ANSWER)
    accepts = follower(grammar, (*form.marks, *THINKS) if as_tokens else ())
    final = "<|channel|>final<|message|>" if form.name == "harmony" else ""
    assert accepts(call_of(prompt, "weather", GOOD))
    assert not accepts(call_of(prompt, "weather", BAD))
    assert accepts(final + '{"a": 1}')
    assert not accepts(final + '{"a": "1"}')
    assert not accepts(final + "Free.")


@pytest.mark.parametrize(
    ("kind", "text", "good", "bad"),
    [
        (GrammarKind.REGEX, "[a-c]{3}", "abc", "abd"),
        (GrammarKind.CHOICE, '["yes", "no"]', "no", "maybe"),
        (GrammarKind.GBNF, 'root ::= "a" [0-9]+', "a12", "b"),
        (GrammarKind.GBNF, 'start: "a" NUMBER\nNUMBER: /[0-9]+/', "a12", "b"),
    ],
)
def test_answers_of_every_kind(kind: GrammarKind, text: str, good: str, bad: str) -> None:
    answer = Grammar(kind=kind, text=text, field="grammar")
    prompt, grammar = answer_or_calls_grammar(prompt_of(NONE), USE, answer)
    accepts = follower(grammar, (*NONE.marks, *THINKS))
    assert accepts(good)
    assert not accepts(bad)
    assert accepts(call_of(prompt, "weather", GOOD))


def test_several_calls_only_if_parallel() -> None:
    prompt, grammar = answer_or_calls_grammar(prompt_of(NONE), USE, ANSWER)
    call = call_of(prompt, "weather", GOOD)
    assert follower(grammar)(f"{call}\n{call}")
    _, grammar = answer_or_calls_grammar(prompt_of(NONE), replace(USE, parallel=False), ANSWER)
    assert not follower(grammar)(f"{call}\n{call}")


def test_a_forced_call() -> None:
    accepts = follower(forced_grammar(replace(USE, must_call=True)))
    assert accepts('{"name": "weather", "arguments": {"city": "Xanadu"}}')
    assert not accepts('{"name": "weather", "arguments": {"city": "Paris"}}')
    assert accepts('{"name": "free", "arguments": {"q": 1}}')
    assert not accepts('{"name": "free", "arguments": {"q": "x"}}')
    assert accepts('{"name":"now","arguments":{}}')
    only = follower(forced_grammar(replace(USE, must_call=True, only="now")))
    assert not only('{"name": "weather", "arguments": {"city": "Xanadu"}}')


def test_a_schema_refers_to_itself_and_its_definitions() -> None:
    pen = {
        "properties": {"pen": {"$ref": "#/$defs/Pen"}, "next": {"$ref": "#"}},
        "$defs": {"Pen": {"enum": ["red"]}},
        "required": ["pen"],
        "additionalProperties": False,
    }
    accepts = follower(forced_grammar(ToolUse(schemas={"other": pen, "paint": pen}, must_call=True)))
    assert accepts('{"name": "paint", "arguments": {"pen": "red", "next": {"pen": "red"}}}')
    assert not accepts('{"name": "paint", "arguments": {"pen": "red", "next": {"pen": "blue"}}}')


def test_implied_types_are_enforced_and_unknown_formats_are_not() -> None:
    odd = {"properties": {"a": {"properties": {"b": {"type": "string", "format": "password"}}}}}
    accepts = follower(forced_grammar(ToolUse(schemas={"f": odd}, must_call=True, strict=frozenset(["f"]))))
    assert accepts('{"name": "f", "arguments": {"a": {"b": "x"}}}')
    assert not accepts('{"name": "f", "arguments": {"a": 1}}')


def test_llama_objects_at_the_beginning_and_behind_the_tag_are_calls() -> None:
    form = next(f for f in FORMATS if f.name == "llama-json")
    prompt, grammar = strict_grammar(prompt_of(form), USE)
    accepts = follower(grammar, (*form.marks, *THINKS))
    good, bad = call_of(prompt, "weather", GOOD), call_of(prompt, "weather", BAD)
    assert accepts(f"{good};{good}")
    assert accepts(f"Wait. <|python_tag|>{good}")
    assert accepts("<|python_tag|>print(1)")
    assert accepts('In JSON: {"a": 1}')
    assert not accepts(f"Wait. <|python_tag|>{bad}")
    assert not accepts('{"a": 1}')
    assert accepts(f"<think>Hm.</think>\n\n{good}")
    assert not accepts(f"<think>Hm.</think>\n\n{bad}")
    assert accepts("<think>Never closed")
    opened = follower(strict_grammar(prompt_of(form, "Say.<think>\n"), USE)[1], (*form.marks, *THINKS))
    assert opened(f"Hm.</think>{good}")
    assert not opened(f"Hm.</think>{bad}")
    assert opened("Hm.")


def test_harmony_may_name_the_function_before_the_channel() -> None:
    form = next(f for f in FORMATS if f.name == "harmony")
    _, grammar = strict_grammar(prompt_of(form), USE)
    accepts = follower(grammar, form.marks)
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    call = " to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"
    assert accepts(thought + call.replace("{}", GOOD))
    assert not accepts(thought + call.replace("{}", BAD))
    assert accepts(thought + "<|channel|>final<|message|>Hello to=functions.weather")


def _use(schema: dict[str, Any]) -> ToolUse:
    return ToolUse(tools=({},), schemas={"f": schema}, strict=frozenset(["f"]))


def test_a_strict_schema_without_a_grammar_is_refused() -> None:
    odd = {"properties": {"a": {"type": "array", "uniqueItems": True}}}
    _, grammar = strict_grammar(prompt_of(NONE), _use(odd))
    with pytest.raises(
        RequestError, match=r"'f' cannot be enforced: Unimplemented keys: \[\"uniqueItems\"\]; "
    ) as refused:
        follower(grammar)("")
    assert refused.value.param == "tools"
    use = replace(_use(odd), strict=frozenset(), must_call=True)
    assert follower(forced_grammar(use))('{"name": "f", "arguments": {"a": [1, 1]}}')


def test_the_form_at_fault_is_named() -> None:
    bad = Grammar(kind=GrammarKind.REGEX, text="(", field="guided_regex")
    _, grammar = answer_or_calls_grammar(prompt_of(NONE), USE, bad)
    with pytest.raises(RequestError, match="'guided_regex' cannot be used"):
        follower(grammar)("")


def test_calls_without_marks_are_not_constrained() -> None:
    prompt = prompt_of(replace(NONE, marks=(), call_json=None))
    with pytest.raises(NotSupported, match="'strict' is not supported with this model"):
        strict_grammar(prompt, USE)
    with pytest.raises(NotSupported, match="'response_format' together with 'tools'"):
        answer_or_calls_grammar(prompt, USE, ANSWER)


def test_many_tools() -> None:
    schemas = {f"tool_{i}": json.loads(json.dumps(CITY)) for i in range(300)}
    use = ToolUse(tools=({},), schemas=schemas, strict=frozenset(schemas))
    prompt, grammar = strict_grammar(prompt_of(NONE), use)
    accepts = follower(grammar)
    assert accepts(call_of(prompt, "tool_299", GOOD))
    assert not accepts(call_of(prompt, "tool_299", BAD))
