"""Strict tools with templates whose calls no grammar can constrain: this server's own form is used."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.chat.templates import source_of
from tests.server.fake_engine import INFO
from tests.server.grammars import CITY, follower
from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.events import CallArguments, CallStart, Content, Event, Reasoning
from vram_llm.engine.request import Grammar, GrammarKind
from vram_llm.server.config import ServerConfig
from vram_llm.server.custom_tools import text_parameters
from vram_llm.server.image_inputs import RequestImages
from vram_llm.server.prepare_chat import PreparedChat, TemplateInput, prepare_chat
from vram_llm.server.thinking_fields import ThinkingSettings
from vram_llm.server.tool_choice import ParsedToolChoice
from vram_llm.server.tool_grammars import with_constrainable_calls
from vram_llm.server.tools import OfferedTool, ToolUse, resolve_tool_use

# By template: the text before the model's answer, and the text after it.
FRAMES = {
    "Kimi-K3": (
        "Hm.<|close|>think<|sep|><|open|>response<|sep|>",
        "<|close|>response<|sep|>",
    ),
    "MiniMax-M3": ("<mm:think>Hm.</mm:think>", ""),
    "muse-glimmer": (" to=self<|message|>Hm.<|eom|><|start|>assistant to=user<|message|>", ""),
    "meetkai-functionary-medium-v3.2": ("", ""),
}
# No grammar of tags constrains a pattern.
SCHEMA: dict[str, Any] = {
    **CITY,
    "properties": {**CITY["properties"], "code": {"type": "string", "pattern": "^[a-z]{2}$"}},  # type: ignore[dict-item]
    "required": ["city", "code"],
}
TOOL = OfferedTool("weather", "Weather of a city", SCHEMA, strict=True)
REGEX = Grammar(kind=GrammarKind.REGEX, text="[0-9]+", field="tools[0].format")
CUSTOM = OfferedTool(
    "dial", "Dials", text_parameters(REGEX), strict=True, takes_text=True, text_grammar=REGEX
)
ANSWER = Grammar(kind=GrammarKind.JSON_SCHEMA, text='{"type": "object", "required": ["a"]}', field="format")
QUESTION = [{"role": "user", "content": "How is Xanadu?"}]
GOOD, BAD = '{"city": "Xanadu", "code": "xy"}', '{"city": "Paris", "code": "xy"}'


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def use_of(*offers: OfferedTool) -> ToolUse:
    return resolve_tool_use(offers, ParsedToolChoice(), True)


def prepare_request(
    template: str,
    use: ToolUse,
    grammar: Grammar | None = None,
    *,
    messages: Sequence[dict[str, Any]] = QUESTION,
    effort: str | None = None,
) -> PreparedChat:
    info = replace(INFO, chat_template=source_of(template))
    chat = TemplateInput(messages=list(messages), images=RequestImages(taken=False))
    thinking = ThinkingSettings(effort)
    return prepare_chat(info, chat, use, config=ServerConfig(), thinking=thinking, grammar=grammar)


def read(turn: PreparedChat, text: str) -> list[Event]:
    parser = turn.new_parser()
    assert parser is not None
    return [event for char in text for event in parser.feed(char)] + parser.finish()


def texts(events: list[Event], kind: type[Content] | type[Reasoning] | type[CallArguments]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


@pytest.mark.parametrize("template", FRAMES)
def test_a_strict_tool_is_constrained(template: str) -> None:
    turn = prepare_request(template, use_of(TOOL))
    assert '"weather"' in turn.prompt
    assert "<tool_call>" in turn.prompt
    assert "How is Xanadu?" in turn.prompt
    assert turn.grammar is not None
    accepts = follower(turn.grammar, turn.marks)
    before, after = FRAMES[template]
    assert accepts(f"{before}Just text.{after}")
    assert accepts(f"{before}{call('weather', GOOD)}{after}")
    assert accepts(f"{before}I look. {call('weather', GOOD)}\n{call('weather', GOOD)}{after}")
    assert not accepts(f"{before}{call('weather', BAD)}{after}")
    assert not accepts(f"{before}{call('other', GOOD)}{after}")


@pytest.mark.parametrize("template", FRAMES)
def test_the_models_answer_is_read(template: str) -> None:
    turn = prepare_request(template, use_of(TOOL))
    before, after = FRAMES[template]
    events = read(turn, f"{before}I look.\n{call('weather', GOOD)}{after}")
    assert texts(events, Content).strip() == "I look."
    assert texts(events, Reasoning) == ("Hm." if before else "")
    assert [event.name for event in events if isinstance(event, CallStart)] == ["weather"]
    assert texts(events, CallArguments) == GOOD


@pytest.mark.parametrize("template", FRAMES)
def test_a_custom_tool_is_constrained_to_its_regex(template: str) -> None:
    turn = prepare_request(template, use_of(CUSTOM))
    assert turn.grammar is not None
    accepts = follower(turn.grammar, turn.marks)
    before, after = FRAMES[template]
    assert accepts(before + call("dial", '{"input": "12"}') + after)
    assert not accepts(before + call("dial", '{"input": "x"}') + after)


@pytest.mark.parametrize("template", FRAMES)
def test_earlier_calls_and_results_are_shown(template: str) -> None:
    function = {"name": "weather", "arguments": GOOD}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How is Xanadu?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "Sunny and mild", "tool_call_id": "c"},
    ]
    prompt = prepare_request(template, use_of(TOOL), messages=messages).prompt
    places = [prompt.index(text) for text in ("How is Xanadu?", GOOD, "Sunny and mild")]
    assert places == sorted(places)
    assert "Be brief." in prompt


@pytest.mark.parametrize("template", FRAMES)
def test_tools_with_an_answer_of_a_form(template: str) -> None:
    lax = replace(TOOL, strict=False)
    turn = prepare_request(template, use_of(lax), ANSWER)
    assert turn.grammar is not None
    accepts = follower(turn.grammar, turn.marks)
    assert accepts('{"a": 1}')
    assert not accepts("Hello")
    assert not accepts('{"b": 1}')


@pytest.mark.parametrize("template", FRAMES)
def test_tools_without_a_grammar_are_shown_by_the_template(template: str) -> None:
    dialect = dialect_of(source_of(template))
    assert with_constrainable_calls(dialect, use_of(replace(TOOL, strict=False)), None) is dialect
    assert with_constrainable_calls(dialect, ToolUse(), ANSWER) is dialect
    must = resolve_tool_use([TOOL], ParsedToolChoice("required"), True)
    assert with_constrainable_calls(dialect, must, None) is dialect


@pytest.mark.parametrize("effort", [None, "none"])
def test_an_answer_in_a_frame_is_begun_once(effort: str | None) -> None:
    make = partial(prepare_request, "meetkai-functionary-medium-v3.2", effort=effort)
    for turn in (make(use_of(TOOL)), make(use_of(TOOL), ANSWER)):
        assert turn.prompt.endswith(">>>all\n")
        assert not turn.prompt.endswith("all\nall\n")
    assert make(use_of(replace(TOOL, strict=False))).prompt.endswith(">>>")
