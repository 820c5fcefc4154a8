"""Calls as nested XML, each tag behind `]<]minimax[>[`: MiniMax M3.

Source: the chat template of MiniMaxAI/MiniMax-M3: NS<invoke name="NAME">NS<KEY>VALUE NS</KEY>NS</invoke>. An
object has a tag for each of its keys, an array a tag `item` for each of its items.
"""

import json
from typing import Any

from vram_llm.chat.formats.arguments import (
    Schemas,
    as_json,
    member,
    resolve_reference,
    string_value,
    types_of,
)
from vram_llm.chat.formats.call_json import is_name
from vram_llm.chat.json_scan import MAX_DEPTH
from vram_llm.chat.reader import ParseFunction, Reader, Wait

NS = "]<]minimax[>["
OPEN, CLOSE = f"{NS}<tool_call>", f"{NS}</tool_call>"
_INVOKE, _INVOKE_END = f'{NS}<invoke name="', f"{NS}</invoke>"
_ITEM = "item"
_STRING = frozenset({"string"})


def minimax_m3(schemas: Schemas) -> ParseFunction:
    """Content, and calls in tags anywhere in it."""

    def parse(r: Reader) -> Wait[None]:
        while opening := (yield from r.until(OPEN, _INVOKE, to=r.content)):
            r.mark()
            if opening == OPEN:
                yield from r.spaces()
                opening = _INVOKE if (yield from r.take(_INVOKE)) else ""
            header = (yield from r.short('">')) if opening else None
            if header is None or not is_name(name := header[0]):
                r.back()
                r.content(OPEN)
                continue
            schema = schemas.get(name, {})
            r.start_call(name)
            r.arguments("{")
            if (yield from _members(r, _INVOKE_END, schema, schema, 1)):
                r.end_call()
                yield from r.spaces()
                yield from r.take(CLOSE)

    return parse


def _members(r: Reader, end: str, schema: Any, root: Any, depth: int) -> Wait[bool]:
    """The members of an object and its `end`; its opening bracket is written already."""
    separator = ""
    while not (yield from r.take_after_spaces(end)):
        key = yield from _tag(r)
        if key is None:
            return False
        r.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        if not (yield from _value(r, key, member(resolve_reference(schema, root), key), root, depth)):
            return False
    r.arguments("}")
    return True


def _items(r: Reader, end: str, schema: Any, root: Any, depth: int) -> Wait[bool]:
    separator = ""
    schema = resolve_reference(schema, root)
    item = schema.get("items") if isinstance(schema, dict) else None
    while not (yield from r.take_after_spaces(end)):
        if not (yield from r.take(f"{NS}<{_ITEM}>")):
            return False
        r.arguments(separator)
        separator = ", "
        if not (yield from _value(r, _ITEM, item, root, depth)):
            return False
    r.arguments("]")
    return True


def _value(r: Reader, key: str, schema: Any, root: Any, depth: int) -> Wait[bool]:
    """A value and the tag that ends it."""
    end = f"{NS}</{key}>"
    types = types_of(schema, root)
    if types == _STRING:
        return bool((yield from string_value(r, end)))
    if (yield from r.comes(f"{NS}<")) and not (yield from r.comes(end)):
        if depth == MAX_DEPTH:
            return False
        is_list = yield from r.comes(f"{NS}<{_ITEM}>")
        r.arguments("[" if is_list else "{")
        inside = _items if is_list else _members
        return (yield from inside(r, end, _chosen(schema, root, is_list), root, depth + 1))
    pieces: list[str] = []
    if not (yield from r.until(end, to=pieces.append)):
        return False
    text = "".join(pieces)
    empty = {frozenset({"array"}): "[]", frozenset({"object"}): "{}"}.get(types or frozenset())
    r.arguments(empty if empty and not text else as_json(text, types))
    return True


def _chosen(schema: Any, root: Any, is_list: bool) -> Any:
    """The schema of an array or of an object, from a choice of schemas."""
    schema = resolve_reference(schema, root)
    if isinstance(schema, dict):
        wanted = "array" if is_list else "object"
        for choice in schema.get("anyOf") or schema.get("oneOf") or ():
            if wanted in (types_of(choice, root) or ()):
                return resolve_reference(choice, root)
    return schema


def _tag(r: Reader) -> Wait[str | None]:
    if not (yield from r.take(f"{NS}<")):
        return None
    header = yield from r.short(">")
    return header[0] if header and not header[0].startswith("/") else None
