"""The format of a chat template's tool calls, found by rendering a call and reading it back.

A word in the template's source can mislead: it may be in a comment, or be put together from variables.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from vram_llm.chat.events import CallArguments, CallStart
from vram_llm.chat.formats.call_format import CallFormat, object_format
from vram_llm.chat.formats.table import FORMATS
from vram_llm.chat.formats.thinking_marks import MARK
from vram_llm.chat.reader import Parser
from vram_llm.chat.template import MAX_PROBE_SECONDS, ChatTemplate

_NAME = "q7name7q"
_ARGUMENTS: dict[str, Any] = {"q7key7q": "q7 value 7q", "q7count7q": 73}
_SCHEMA = {
    "type": "object",
    "properties": {
        "q7key7q": {"type": "string", "description": "a"},
        "q7count7q": {"type": "integer", "description": "b"},
    },
    "required": ["q7key7q"],
}
_TOOLS = [{"type": "function", "function": {"name": _NAME, "description": "c", "parameters": _SCHEMA}}]
_OBJECT = re.compile(rf'(?:\[\s*)?\{{\s*"(\w+)":\s*"{_NAME}",\s*"(\w+)":\s*[{{"]')
_USER = {"role": "user", "content": "d"}


@dataclass(frozen=True, slots=True)
class TemplateTools:
    """How a template shows tools and calls. `form` is None for an unknown format of calls.

    `shows_tools`: descriptions of tools are in the prompt.
    """

    form: CallFormat | None
    shows_tools: bool


def find_template_tools(source: str) -> TemplateTools:
    """Renders the template two or three times."""
    template = ChatTemplate(source, "", "")
    prompt = _render(template, [_USER], add_generation_prompt=True)
    shows_tools = _NAME in prompt if prompt else re.search(r"\btools\b", source) is not None
    for as_text in (False, True):
        turn = _render(template, [_USER, _call(as_text)], add_generation_prompt=False)
        at = _common(prompt, turn)
        # the prompt's last tag may begin as the call does, or hold the answer's beginning
        for text in (turn[at:], turn[turn.rfind("<", 0, at) :]) if prompt and turn else ():
            if form := _reads(text) or _made(text):
                return TemplateTools(form, shows_tools)
    form = next((known for known in FORMATS if known.is_in(source)), None)
    return TemplateTools(form, shows_tools)


def _common(a: str, b: str) -> int:
    """The number of characters that two texts share at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _reads(text: str) -> CallFormat | None:
    """The format that reads the call in `text`; a format with the same marks is preferred."""
    able = [form for form in FORMATS if _calls(form, text) == [(_NAME, _ARGUMENTS)]]
    return next((form for form in able if form.is_shown_in(text)), able[0] if able else None)


def _made(text: str) -> CallFormat | None:
    """A format outside the table: the call is a JSON object, or a list of one, after a mark."""
    call = _OBJECT.search(text)
    before = list(MARK.finditer(text, 0, call.start())) if call else []
    if call is None or not before or text[before[-1].end() : call.start()].strip():
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(text, call.start())
    except ValueError:
        return None
    after = MARK.match(text[end:].lstrip())
    form = object_format(
        "objects",
        before[-1][0],
        after[0] if after else "",
        is_list=call[0].startswith("["),
        keys=(call[1], call[2]),
    )
    return form if _calls(form, text) == [(_NAME, _ARGUMENTS)] else None


def _calls(form: CallFormat, text: str) -> list[tuple[str, Any]]:
    parser = Parser(form.parse_function({_NAME: _SCHEMA}))
    names: list[str] = []
    arguments: list[str] = []
    for event in [*parser.feed(text), *parser.finish()]:
        if isinstance(event, CallStart):
            names.append(event.name)
            arguments.append("")
        elif isinstance(event, CallArguments):
            arguments[event.index] += event.text
    try:
        return list(zip(names, map(json.loads, arguments), strict=True))
    except ValueError:
        return []


def _call(as_text: bool) -> dict[str, Any]:
    function = {"name": _NAME, "arguments": json.dumps(_ARGUMENTS) if as_text else _ARGUMENTS}
    calls = [{"id": "abcdefghi", "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _render(template: ChatTemplate, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
    """A prompt; "" if the template refuses."""
    return template.probe(
        messages, MAX_PROBE_SECONDS, tools=_TOOLS, add_generation_prompt=add_generation_prompt
    )
