"""The grammar of calls with arguments in tags, one pair for each: <parameter=KEY>VALUE</parameter>.

Strings are not quoted, so a value's type decides its grammar: text up to the tag that ends it, one of the
texts of an `enum`, or JSON. A schema with more rules for a text (such as a `pattern`) has no such grammar.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vram_llm.chat.call_grammar import GrammarWriter, ToolSchema, joined, quoted
from vram_llm.chat.formats.arguments import resolve_reference, types_of
from vram_llm.chat.formats.tagged import CallTags

_STRING = frozenset({"string"})
_SCALARS = frozenset({"string", "null", "boolean", "integer", "number"})
_LOOSE = frozenset(
    {
        "type", "anyOf", "oneOf", "title", "description", "default", "examples", "deprecated", "readOnly",
        "writeOnly", "$comment",
    }
)  # fmt: skip
_OF_OBJECTS = _LOOSE - {"anyOf", "oneOf"} | {
    "properties", "required", "additionalProperties", "$defs", "definitions", "$schema", "$id",
}  # fmt: skip
_DEFINITIONS = ("$defs", "definitions")
_KEY_NAME = """/[^"'<>&|\\s]{1,128}/"""
_KEY = re.compile(r"""[^"'<>&|\s]{1,128}""")
_REFERENCE = re.compile(r'"\$ref": "(?!#/(?:\$defs|definitions)/)')


@dataclass(frozen=True, slots=True)
class TagLayout:
    """`call NAME name_end (parameter KEY key_end VALUE value_end)... call_end`, within `outer` tags or not.

    `text_mark` or `json_mark` stands before `key_end`, by the kind of VALUE. With `newline`, one may stand
    before and after VALUE.
    """

    outer: tuple[str, str] | None
    call: str
    name_end: str
    parameter: str
    key_end: str
    value_end: str
    call_end: str
    newline: bool = False
    text_mark: str = ""
    json_mark: str = ""


GLM = TagLayout(
    outer=None,
    call="<tool_call>",
    name_end="\n",
    parameter="<arg_key>",
    key_end="</arg_key>\n<arg_value>",
    value_end="</arg_value>",
    call_end="</tool_call>",
)


def layout_of(tags: CallTags) -> TagLayout:
    """The layout of a format."""
    quote = '"' if tags.call.endswith('"') else ""
    has_types = "DSML" in tags.parameter
    return TagLayout(
        outer=tags.outer,
        call=tags.call,
        name_end=quote + tags.head_end,
        parameter=tags.parameter,
        key_end=tags.head_end if has_types else quote + tags.head_end,
        value_end=tags.value_ends[-1],
        call_end=tags.call_end,
        newline=tags.newline,
        text_mark='" string="true"' if has_types else "",
        json_mark='" string="false"' if has_types else "",
    )


def can_constrain(tool: ToolSchema) -> bool:
    """Whether a grammar can constrain arguments in tags to a schema, as it constrains JSON."""
    schema = tool.schema
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not _OF_OBJECTS.issuperset(schema):
        return False
    return all(
        _KEY.fullmatch(key) is not None and _kind(value, schema) is not None
        for key, value in properties.items()
    )


def write_tagged(
    writer: GrammarWriter, layout: TagLayout, tools: Mapping[str, ToolSchema], *, parallel: bool
) -> None:
    """Define `section`, one or more calls after any text, and `calls`, the same without text before."""
    mark, end = writer.mark(layout.call), f"mark_{writer.mark(layout.call_end)}"
    bodies = []
    for i, (name, tool) in enumerate(tools.items()):
        arguments = _arguments(writer, layout, i, tool)
        bodies.append(joined(quoted(name), writer.literal(layout.name_end), "WS", arguments, end))
    body = writer.rule("tagged", *bodies)
    more = f"(WS mark_{mark} {body})*" if parallel else ""
    if layout.outer is None:
        writer.rule("section", f"trigger_{mark} {body}")
        writer.rule("calls", joined(f"mark_{mark} {body}", more))
        return
    opening, closing = (writer.mark(tag) for tag in layout.outer)
    inner = writer.rule("inner", joined("WS", f"mark_{mark} {body}", more, "WS", f"mark_{closing}"))
    again = f"(WS mark_{opening} {inner})*" if parallel else ""
    writer.rule("section", f"trigger_{opening} {inner}", f"trigger_{mark} {body}")
    writer.rule("calls", joined(f"mark_{opening} {inner}", again), joined(f"mark_{mark} {body}", more))


def _arguments(writer: GrammarWriter, layout: TagLayout, i: int, tool: ToolSchema) -> str:
    """An expression for all arguments of tool `i`; "" if it takes none."""
    parameter = f"mark_{writer.mark(layout.parameter)}"
    if not can_constrain(tool):
        values = " | ".join(
            _value(writer, layout, mark, f"until_{writer.mark(layout.value_end)}")
            for mark in {layout.text_mark, layout.json_mark}
        )
        return f"({joined(parameter, _KEY_NAME, f'({values})', 'WS')})*"
    required = tool.schema.get("required") or ()
    parts = []
    for k, (key, schema) in enumerate(tool.schema["properties"].items()):
        value = _constrained_value(writer, layout, f"value_{i}_{k}", schema, tool)
        part = writer.rule(f"argument_{i}_{k}", joined(parameter, quoted(key), value, "WS"))
        parts.append(part if key in required else f"{part}?")
    return " ".join(parts)


def _constrained_value(
    writer: GrammarWriter, layout: TagLayout, name: str, schema: Any, tool: ToolSchema
) -> str:
    kind = _kind(schema, tool.schema)
    end = writer.mark(layout.value_end)
    if kind == "text":
        return _value(writer, layout, layout.text_mark, f"until_{end}")
    if kind == "json":
        definitions = {key: tool.schema[key] for key in _DEFINITIONS if key in tool.schema}
        rule = writer.json_value(name, ToolSchema({**schema, **definitions}, tool.lenient))
        return _value(writer, layout, layout.json_mark, f"WS {rule} WS mark_{end}")
    texts = f"({' | '.join(map(quoted, kind or ()))})"
    newline = '"\\n"? ' if layout.newline else ""
    return _value(writer, layout, layout.text_mark, f"{newline}{texts} {newline}mark_{end}")


def _value(writer: GrammarWriter, layout: TagLayout, type_mark: str, value: str) -> str:
    kind = f"mark_{writer.mark(type_mark)}" if type_mark else ""
    return joined(kind, writer.literal(layout.key_end), value)


def _kind(schema: Any, root: Any) -> str | tuple[str, ...] | None:
    """The grammar of a value: "text", "json", or one of the texts given; None if there is none."""
    types, schema = types_of(schema, root), resolve_reference(schema, root)
    if not isinstance(schema, Mapping) or _REFERENCE.search(json.dumps(schema)):
        return None
    if types is not None and "string" not in types:
        return "json"
    texts = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if types == _STRING and isinstance(texts, list):
        return (
            tuple(texts) if all(text and text == text.strip() and "<" not in text for text in texts) else None
        )
    return "text" if types is not None and types <= _SCALARS and _is_loose(schema, root) else None


def _is_loose(schema: Any, root: Any) -> bool:
    """Whether any text is valid, as one of its types or as a string."""
    schema = resolve_reference(schema, root)
    if not isinstance(schema, Mapping) or not _LOOSE.issuperset(schema):
        return False
    return all(_is_loose(choice, root) for key in ("anyOf", "oneOf") for choice in schema.get(key) or ())
