"""Tools as clients declare them, shown by every template of llama.cpp's that shows tools."""

from typing import Any

import pytest

from tests.chat.templates import NAMES, source_of
from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.plain_tools import plain_tools
from vram_llm.chat.prompt import chat_prompt
from vram_llm.chat.template import ChatTemplate

STRING = {"type": "string"}
PARAMETERS: dict[str, dict[str, Any]] = {
    "none": {"type": "object", "properties": {}},
    "bare": {"type": "object"},
    "undescribed": {"type": "object", "properties": {"a": STRING, "b": {}, "c": {"enum": ["x", 1]}}},
    "nullable": {
        "type": "object",
        "properties": {
            "a": {"type": ["string", "null"]},
            "b": {"anyOf": [STRING, {"type": "null"}], "default": None},
            "c": {"type": "null"},
        },
    },
    "nested": {
        "type": "object",
        "properties": {
            "a": {
                "type": "object",
                "properties": {"b": STRING},
                "required": ["b"],
                "additionalProperties": False,
            },
            "c": {"type": "array", "items": {"type": "object", "properties": {"d": {"type": "array"}}}},
            "e": {"type": "object"},
        },
        "required": ["a"],
    },
    "referring": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/B"}},
        "$defs": {"B": {"type": "object", "properties": {"c": STRING}}},
        "required": ["a"],
        "additionalProperties": False,
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_every_shape_of_parameters_is_shown(name: str) -> None:
    dialect, template = dialect_of(source_of(name)), ChatTemplate(source_of(name), "", "")
    for shape, parameters in PARAMETERS.items():
        function = {"name": f"q7{shape}", "description": "", "parameters": parameters}
        tools = [{"type": "function", "function": function}]
        prompt = chat_prompt([{"role": "user", "content": "Hello"}], tools, template, dialect, {})
        assert f"q7{shape}" in prompt.text


def test_the_names_and_the_required_stay() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS["nested"]}}
    (plain,) = plain_tools([tool])
    parameters = plain["function"]["parameters"]
    assert plain["function"]["description"] == ""
    assert parameters["required"] == ["a"]
    assert parameters["properties"]["a"]["additionalProperties"] is False
    assert parameters["properties"]["c"]["items"]["properties"]["d"]["items"] == {"description": ""}
    assert "description" not in PARAMETERS["nested"]["properties"]["a"]
