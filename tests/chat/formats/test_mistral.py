"""Outputs in the formats that the templates of Mistral's models of different ages ask for."""

import pytest

from tests.chat.formats.cuts import Parsed, calls, check
from vram_llm.chat.formats.mistral import fitting_id, mistral, new_id
from vram_llm.chat.formats.thinking import thinking

PARIS = '{"city": "Paris"}'


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Bonjour [INST]", Parsed(content="Bonjour [INST]")),
        (  # Nemo: a list
            f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {PARIS}, "id": "a1B2c3D4e"}}, '
            '{"name": "now", "arguments": {}, "id": "123456789"}]',
            calls(("get_weather", PARIS), ("now", "{}")),
        ),
        (  # Small 3.2
            f"[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{PARIS}[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{{}}",
            calls(("get_weather", PARIS), ("now", "{}")),
        ),
        (  # Devstral, Magistral, Ministral 3
            f"Je regarde. [TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]now[ARGS]{{}}",
            calls(("get_weather", PARIS), ("now", "{}"), content="Je regarde."),
        ),
        (f'[TOOL_CALLS] [ {{"name": "now", "arguments": {PARIS}}} ]', calls(("now", PARIS))),
        ('[TOOL_CALLS]now[ARGS]{"a": 1', Parsed(calls=[["now", '{"a": 1']])),
        ("[TOOL_CALLS]now[ARGS]{a: 1}", Parsed(calls=[["now", "{a: 1}"]])),
        (  # the second in the list is none
            '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"nam": 1}]',
            calls(("now", "{}"), content='{"nam": 1}]'),
        ),
    ],
)
def test_outputs(text: str, parsed: Parsed) -> None:
    check(lambda: mistral, text, parsed)


@pytest.mark.parametrize(
    "text",
    [
        "[TOOL_CALLS]",
        "[TOOL_CALLS]now",
        "[TOOL_CALLS]a b[ARGS]{}",
        "[TOOL_CALLS][]",
        "[TOOL_CALLS]now[ARGS][]",
    ],
)
def test_text_that_is_not_a_call_is_content(text: str) -> None:
    check(lambda: mistral, text, Parsed(content=text))


def test_thinking_first() -> None:
    check(
        lambda: thinking("[THINK]", "[/THINK]", mistral, opened=False),
        "[THINK]The time.[/THINK][TOOL_CALLS]now[ARGS]{}",
        calls(("now", "{}"), reasoning="The time."),
    )


def test_ids_are_nine_letters_or_digits() -> None:
    assert fitting_id(new_id()) != new_id()
    assert fitting_id("a1B2c3D4e") == "a1B2c3D4e"
    fitted = fitting_id("call_0123456789abcdef")
    assert fitted == fitting_id("call_0123456789abcdef")
    assert len(fitted) == 9
    assert fitted.isalnum()
