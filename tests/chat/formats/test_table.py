"""Each format's own way of writing, from the models' templates: single calls, several, cut off, none."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chat.formats.cuts import SCHEMAS, Parsed, calls, check, run
from vram_llm.chat.formats.call_format import CallFormat
from vram_llm.chat.formats.call_json import ID
from vram_llm.chat.formats.table import FORMATS
from vram_llm.chat.reader import Parser

PARIS = '{"city": "Paris"}'
WEATHER, NOW = ("get_weather", PARIS), ("now", "{}")
NAMED: dict[str, CallFormat] = {}
for each in FORMATS:
    NAMED.setdefault(each.name, each)
SOLAR = "<|tool_call:begin|>{}<|tool_call:name|>{}<|tool_call:args|>{}<|tool_call:end|>"
KIMI = "<|tool_call_begin|>functions.{}:{}<|tool_call_argument_begin|>{}<|tool_call_end|>"
OUTPUTS: dict[str, list[tuple[str, Parsed]]] = {
    "granite": [
        (
            f'<|tool_call|>[{{"name": "get_weather", "arguments": {PARIS}}}, {{"name": "now"}}]',
            calls(WEATHER, NOW),
        ),
        (f'<|tool_call|> {{"name": "get_weather", "arguments": {PARIS}}}', calls(WEATHER)),
    ],
    "cohere": [
        (
            "<|START_RESPONSE|>One moment.<|END_RESPONSE|><|START_ACTION|>[\n"
            f'    {{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {PARIS}}},\n'
            '    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>',
            calls(WEATHER, NOW, content="One moment."),
        ),
        ("<|START_TEXT|>Hello<|END_TEXT|>", Parsed(content="Hello")),
    ],
    "command-r": [
        (
            'Action:\n```json\n[\n    {\n        "tool_name": "get_weather",\n        "parameters": {"city": '
            '"Paris"}\n    }\n]```',
            calls(WEATHER),
        ),
        ("Action: wait and see.", Parsed(content="Action: wait and see.")),
        ("Action:\n```json\n[1, 2]\n```", Parsed(content="Action:\n```json\n[1, 2]\n```")),
    ],
    "apriel": [
        (
            f'<tool_calls>[{{"name": "get_weather", "arguments": {PARIS}, "id": "a"}}, {{"name": "now", '
            '"arguments": {}, "id": "b"}]</tool_calls>',
            calls(WEATHER, NOW),
        ),
    ],
    "minimax-m1": [
        (
            f'<tool_calls>\n{{"name": "get_weather", "arguments": {PARIS}}}\n{{"name": "now", "arguments": '
            "{}}\n</tool_calls>\nDone.",
            calls(WEATHER, NOW, content="Done."),
        ),
        (
            f'<tool_calls>\n{{"name": "get_weather", "arguments": {PARIS}}}\n{{"name": "no',
            Parsed(content='{"name": "no', calls=[list(WEATHER)], whole=[0]),
        ),
    ],
    "hy3": [
        (
            "<tool_calls:opensource>\n<tool_call:opensource>get_weather<tool_sep:opensource>\n"
            "<arg_key:opensource>city</arg_key:opensource>\n<arg_value:opensource>Paris</arg_value:opensource>\n"
            "</tool_call:opensource>\n<tool_call:opensource>now<tool_sep:opensource>\n"
            "</tool_call:opensource>\n</tool_calls:opensource>",
            calls(WEATHER, NOW),
        ),
    ],
    "firefunction": [
        (
            f'Well. functools[{{"name": "get_weather", "arguments": {PARIS}}}]',
            calls(WEATHER, content="Well."),
        ),
        ("Import functools.", Parsed(content="Import functools.")),
    ],
    "gigachat": [
        (
            f'One.<|function_call|>{{"name": "get_weather", "arguments": {PARIS}}}',
            calls(WEATHER, content="One."),
        ),
    ],
    "gigachat-3": [
        (
            'One.<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "now", "arguments": {}}',
            calls(NOW, content="One."),
        ),
        ("A function call is short.", Parsed(content="A function call is short.")),
    ],
    "apertus": [
        (
            f'<|tools_prefix|>[{{"get_weather": {PARIS}}}, {{"now": {{}}}}]<|tools_suffix|>',
            calls(WEATHER, NOW),
        ),
        ('<|tools_prefix|>[{"now": 1}]', Parsed(content='<|tools_prefix|>[{"now": 1}]')),
        ('<|tools_prefix|>[{"now": {"a": ', Parsed(calls=[["now", '{"a": ']])),
    ],
    "kimi": [
        (
            "Both.<|tool_calls_section_begin|>"
            + KIMI.format("get_weather", 0, PARIS)
            + KIMI.format("now", 1, "{}")
            + "<|tool_calls_section_end|>",
            calls(WEATHER, NOW, content="Both."),
        ),
        (  # no section, no argument, a name without its prefix and count
            "<|tool_call_begin|>now<|tool_call_argument_begin|><|tool_call_end|>",
            calls(NOW),
        ),
        (
            "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>[]",
            Parsed(content="<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>[]"),
        ),
    ],
    "solar": [
        (
            "<|tool_calls|>"
            + SOLAR.format("x1", "get_weather", PARIS)
            + SOLAR.format("x2", "now", "{}")
            + "<|calls|>",
            calls(WEATHER, NOW),
        ),
        ("<|content|>Hello<|end|>", Parsed(content="Hello")),
    ],
    "functionary-tags": [
        (f"<function=get_weather>{PARIS}</function><function=now>{{}}</function>", calls(WEATHER, NOW)),
        ("Use <function=now> so.", Parsed(content="Use <function=now> so.")),
    ],
    "functionary": [
        ("all\nHello >>> there\n>>>x", Parsed(content="Hello >>> there\n>>>x")),
        (f"all\nOne.\n>>>get_weather\n{PARIS}>>>now\n{{}}", calls(WEATHER, NOW, content="One.")),
        ("now\n{}", calls(NOW)),
        ('now\n{"a"', Parsed(calls=[["now", '{"a"']])),
        ("Hello", Parsed(content="Hello")),
    ],
    "muse": [
        (" to=user<|message|>Hello<|eot|>", Parsed(content="Hello")),
        (
            " to=self<|message|>Hm.<|eom|><|start|>assistant to=user<|message|>Wait.<|eom|><|start|>assistant"
            ' to=get_weather<|message|><atem:function_calls>\n<atem:invoke name="get_weather">\n'
            '<atem:parameter name="city">Paris</atem:parameter>\n</atem:invoke>\n</atem:function_calls>'
            '<|eom|><|start|>assistant to=now<|message|><atem:function_calls>\n<atem:invoke name="now">\n'
            "</atem:invoke>\n</atem:function_calls>",
            calls(WEATHER, NOW, content="Wait.", reasoning="Hm."),
        ),
        (  # tags in an answer are quoted
            ' to=user<|message|>Write <atem:invoke name="now">',
            Parsed(content='Write <atem:invoke name="now">'),
        ),
        (" to=now<|message|>Well", Parsed(content="Well")),
        ("no header", Parsed(content="no header")),
    ],
    "gemma": [
        (
            'One.<|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|><|tool_call>call:now{}<tool_call|>',
            calls(WEATHER, NOW, content="One."),
        ),
        (
            '<|tool_call>call:write_file{path:<|"|>a "b"\n{c}<|"|>,lines:[<|"|>x<|"|>,-1.5e3,true,null,[]],'
            'mode:{<|"|>a b<|"|>:{},c:<|"|><|"|>}}<tool_call|>',
            calls(
                (
                    "write_file",
                    '{"path": "a \\"b\\"\\n{c}", "lines": ["x", -1.5e3, true, null, []], '
                    '"mode": {"a b": {}, "c": ""}}',
                )
            ),
        ),
        (  # JSON's way of quoting, and a word without quotation marks
            '<|tool_call>call:get_weather{"city": "Paris", days: few}<tool_call|>',
            calls(("get_weather", '{"city": "Paris", "days": "few"}')),
        ),
        ('<|tool_call>call:get_weather{city:<|"|>Pa', Parsed(calls=[["get_weather", '{"city": "Pa']])),
        ("<|tool_call>call:", Parsed(content="<|tool_call>call:")),
    ],
    "lfm2": [
        (
            "One.<|tool_call_start|>[get_weather(city='Paris'), now()]<|tool_call_end|>Done.",
            calls(WEATHER, NOW, content="One.Done."),
        ),
        (
            "<|tool_call_start|>[write_file(path=\"a\\tb\", text='it's, \"so\"', lines=[1, 'x', None], "
            "force=True, mode={'a': (1, 2)})]<|tool_call_end|>",
            calls(
                (
                    "write_file",
                    '{"path": "a\\tb", "text": "it\'s, \\"so\\"", "lines": [1, "x", null], "force": true, '
                    '"mode": {"a": [1, 2]}}',
                )
            ),
        ),
        (  # escapes: of Python, of both halves of a pair, and of neither
            "<|tool_call_start|>[f(a='\\u00e9\\ud83d\\ude00\\x41\\'\\\\\\d', b=-1)]<|tool_call_end|>",
            calls(("f", '{"a": "é😀A\'\\\\\\\\d", "b": -1}')),
        ),
        ("<|tool_call_start|>[get_weather(city='Pa", Parsed(calls=[["get_weather", '{"city": "Pa']])),
        ("<|tool_call_start|>[link](url)", Parsed(content="<|tool_call_start|>[link](url)")),
    ],
}


def test_calls_with_a_call_json_are_read_back() -> None:
    for form in FORMATS:
        if form.call_json is not None:
            text = form.calls_text([WEATHER, NOW])
            assert text is not None
            assert ID not in text
            check(lambda form=form: form.parse_function(SCHEMAS), text, calls(WEATHER, NOW))  # type: ignore[misc]


@pytest.mark.parametrize(("name", "number"), [(n, i) for n, of in OUTPUTS.items() for i in range(len(of))])
def test_outputs(name: str, number: int) -> None:
    text, parsed = OUTPUTS[name][number]
    check(lambda: NAMED[name].parse_function(SCHEMAS), text, parsed)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_plain_text_stays_as_it_is(form: CallFormat) -> None:
    text = 'In C, `a < b` and {"name": 1} [x](y): Action, functions.now:0 > 3.\n'
    check(lambda: form.parse_function(SCHEMAS), form.answer_begins + text, Parsed(content=text))


TAGS = {  # written out here: their formats have tests of their own
    "minimax": '<minimax:tool_call><invoke name="now"><parameter name="a">x</parameter></invoke>'
    "</minimax:tool_call>",
    "minicpm": '<function name="now"><param name="a"><![CDATA[x]]></param></function>',
    "kimi-k3": '<|open|>call tool="now" index="1"<|sep|><|open|>argument key="a" type="string"<|sep|>x'
    '<|close|>argument<|sep|><|open|>json type="object"<|sep|>{}<|close|>json<|sep|><|close|>call<|sep|>',
    "minimax-m3": ']<]minimax[>[<invoke name="now">]<]minimax[>[<a>]<]minimax[>[<item>x]<]minimax[>[</item>]<'
    "]minimax[>[</a>]<]minimax[>[</invoke>",
}
WORDS = {name: "".join(text for text, _ in of) for name, of in OUTPUTS.items()} | TAGS
WORD = re.compile(r"\]<\]minimax\[>\[|<[^<>\s]*>?|\w+|.", re.DOTALL)


@pytest.mark.process  # computes for many seconds
@pytest.mark.parametrize("name", WORDS)
@given(data=st.data())
def test_whatever_a_model_writes(name: str, data: st.DataObject) -> None:
    parse = NAMED[name].parse_function(SCHEMAS)
    words = sorted(set(WORD.findall(WORDS[name])))
    pieces = data.draw(st.lists(st.sampled_from(words), max_size=25))
    text = "".join(pieces)
    parsed = run(Parser(parse), pieces)
    assert parsed == run(Parser(parse), [text]) == run(Parser(parse), text)
    assert all(isinstance(json.loads(parsed.calls[i][1]), dict) for i in parsed.whole)
    f"{parsed}".encode()


@pytest.mark.process  # computes for many seconds
@pytest.mark.parametrize("name", WORDS)
@given(data=st.data())
def test_calls_cut_and_joined_anyhow(name: str, data: st.DataObject) -> None:
    parse, whole = NAMED[name].parse_function(SCHEMAS), WORDS[name]
    at = st.integers(0, len(whole))
    cuts = data.draw(st.lists(st.tuples(at, at), max_size=4))
    text = "".join(whole[min(cut) : max(cut)] for cut in cuts)
    parsed = run(Parser(parse), text)
    assert parsed == run(Parser(parse), [text])
    assert all(isinstance(json.loads(parsed.calls[i][1]), dict) for i in parsed.whole)
