"""Outputs in the format that the templates of Qwen3-Coder, Qwen3.5 and Nemotron 3 ask for."""

import pytest

from tests.chat.formats.cuts import SCHEMAS, Parsed, calls, check
from vram_llm.chat.formats.tagged import QWEN, tagged

CODE = 'def f(x):\n    if x < 3:\n        return "</param>"\n'


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Nothing to call: 1 < 2.", Parsed(content="Nothing to call: 1 < 2.")),
        (
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n"
            "</parameter>\n</function>\n</tool_call>",
            calls(("get_weather", '{"city": "Paris", "days": 3}')),
        ),
        (  # two calls after a remark; no parameters; the outer tag left out by the model
            "I will look.\n\n<function=now>\n</function>\n</tool_call>\n"
            "<tool_call>\n<function=now></function></tool_call>\n",
            calls(("now", "{}"), ("now", "{}"), content="I will look."),
        ),
        (  # a file's text as it stands; JSON and Python's True for what the template shows that way
            "<tool_call>\n<function=write_file>\n<parameter=path>\n/tmp/é.py\n</parameter>\n<parameter=text>\n"
            f'{CODE}\n</parameter>\n<parameter=lines>\n[1, {{"a": "b"}}]\n</parameter>\n<parameter=force>\n'
            "True\n</parameter>\n<parameter=mode>\nu+x\n</parameter>\n</function>\n</tool_call>",
            calls(
                (
                    "write_file",
                    '{"path": "/tmp/é.py", "text": "def f(x):\\n    if x < 3:\\n        return '
                    '\\"</param>\\"\\n", "lines": [1, {"a": "b"}], "force": true, "mode": "u+x"}',
                )
            ),
        ),
        (  # a number where a string is wanted, and a tool nobody offered
            "<function=get_weather><parameter=city>75001</parameter></function><function=other>"
            "<parameter=x>NaN</parameter><parameter=y>4</parameter></function>",
            calls(("get_weather", '{"city": "75001"}'), ("other", '{"x": "NaN", "y": 4}')),
        ),
        (  # cut off by max_tokens
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar",
            Parsed(calls=[["get_weather", '{"city": "Par']]),
        ),
        (  # something else where a parameter should be
            "<function=get_weather><parameter=city>Rome</parameter>and so on",
            Parsed(content="and so on", calls=[["get_weather", '{"city": "Rome"']]),
        ),
    ],
)
def test_outputs(text: str, parsed: Parsed) -> None:
    check(lambda: tagged(QWEN, SCHEMAS), text, parsed)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call>\n{}</tool_call>",
        "<function=",
        "<function=a b>\n</function>",
        "<function=now>",
        "<function=now>text",
        "<function=" + "x" * 300 + "></function>",
    ],
)
def test_text_that_is_not_a_call_is_content(text: str) -> None:
    check(lambda: tagged(QWEN, SCHEMAS), text, Parsed(content=text))
