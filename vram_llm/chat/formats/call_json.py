"""A call as a JSON object, {"name": ..., "arguments": {...}}, as in many formats."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeGuard

from vram_llm.chat.reader import MAX_NAME, Reader, Wait

_NAMES = ("name", "tool_name")
_ARGUMENTS = ("arguments", "parameters")


ID = "{id}"  # an id or a count that a format writes, in the texts of CallJson


@dataclass(frozen=True, slots=True)
class CallJson:
    """How a model writes calls whose arguments are a JSON object.

    A section of calls is `trigger opening CALL closing`, or, for several calls if the format has a
    `separator`, `trigger opening CALL separator CALL ... closing`. A CALL is `before NAME between ARGUMENTS
    after`. `trigger` appears in no plain answer. With `name_in_json`, `before` ends within a JSON string, so
    NAME is written with JSON's escapes. ID in a text is one or more letters, digits, "-", "_", "." or ":".
    """

    trigger: str
    between: str
    opening: str = ""
    before: str = ""
    after: str = ""
    closing: str = ""
    separator: str | None = None
    name_in_json: bool = False


def json_members(
    trigger: str,
    *,
    keys: tuple[str, str] = ("name", "arguments"),
    first: str = "",
    opening: str = "",
    closing: str = "",
    separator: str | None = None,
) -> CallJson:
    """CallJson of calls that are objects, {"name": NAME, "arguments": ARGUMENTS}.

    `first` is the text of members before the name.
    """
    return CallJson(
        trigger=trigger,
        opening=opening,
        before=f'{{{first}"{keys[0]}": "',
        between=f'", "{keys[1]}": ',
        after="}",
        closing=closing,
        separator=separator,
        name_in_json=True,
    )


def calls_text(form: CallJson, calls: Iterable[tuple[str, str]]) -> str:
    """Calls in the model's form, each from a name and the JSON of its arguments."""
    texts = []
    for name, arguments in calls:
        quoted = json.dumps(name)[1:-1] if form.name_in_json else name
        texts.append(f"{form.before}{quoted}{form.between}{arguments}{form.after}")
    sections = texts if form.separator is None else [form.separator.join(texts)]
    whole = (f"{form.trigger}{form.opening}{text}{form.closing}" for text in sections)
    return "".join(text.replace(ID, str(i)) for i, text in enumerate(whole))


class CallOutcome(Enum):
    """The result of an attempt to read a call."""

    NONE = auto()  # not a call; nothing was written
    BROKEN = auto()  # a call began, and its arguments are not JSON from here on
    WHOLE = auto()


def json_call(r: Reader, name: str) -> Wait[CallOutcome]:
    """Read the arguments of a call of `name`, which come next: BROKEN, or WHOLE."""
    r.start_call(name)
    if not (yield from r.json(r.arguments)):
        return CallOutcome.BROKEN
    r.end_call()
    return CallOutcome.WHOLE


def call_object(r: Reader, names: frozenset[str] | None = None) -> Wait[CallOutcome]:
    """Read one call; `names`: names that are allowed, None: all.

    Arguments are passed on as they come once the name is known. They may also be a string that holds an
    object, null, or absent.
    """
    name: str | None = None
    arguments: str | None = None  # held if they come before the name or not as an object
    begun = False
    if not (yield from r.take("{")):
        return CallOutcome.NONE
    while True:
        key = yield from member(r)
        if key is None:
            break
        if key in _NAMES:
            name = yield from _string(r)
            if not is_name(name) or (names is not None and name not in names):
                return CallOutcome.BROKEN if begun else CallOutcome.NONE
        elif key in _ARGUMENTS and name is not None and not begun and (yield from r.spaces()) == "{":
            begun = True
            if (yield from json_call(r, name)) is CallOutcome.BROKEN:
                return CallOutcome.BROKEN
        else:
            value = yield from _value(r)
            if key in _ARGUMENTS:
                arguments = value
        if (yield from r.spaces()) != "," or not (yield from r.take(",")):
            break
    closed = (yield from r.spaces()) == "}" and (yield from r.take("}"))
    if begun:
        return CallOutcome.WHOLE
    text = _object(arguments)
    if not closed or name is None or text is None:
        return CallOutcome.NONE
    r.start_call(name)
    r.arguments(text)
    r.end_call()
    return CallOutcome.WHOLE


def call_list(r: Reader) -> Wait[CallOutcome]:
    """Read [call, call, ...], or a single call. Returns the outcome of the first, or of the broken one."""
    if not (yield from r.take("[")):
        return (yield from call_object(r))
    outcome = CallOutcome.NONE
    while True:
        yield from r.spaces()
        if outcome is not CallOutcome.NONE:
            r.mark()
        attempt = yield from call_object(r)
        if attempt is CallOutcome.NONE and outcome is not CallOutcome.NONE:
            r.back()
            return outcome
        if attempt is not CallOutcome.WHOLE:
            return attempt
        outcome = attempt
        yield from r.spaces()
        if not (yield from r.take(",")):
            yield from r.take("]")
            return outcome


def is_name(text: str | None) -> TypeGuard[str]:
    """Whether `text` can be a tool's name."""
    if not text or len(text) > MAX_NAME or not text.isprintable():
        return False
    return not any(char in text for char in ' <>{}"')


def member(r: Reader) -> Wait[str | None]:
    """A key and its colon; None if none comes."""
    if (yield from r.spaces()) != '"':
        return None
    key = yield from _string(r)
    yield from r.spaces()
    return key if (yield from r.take(":")) else None


def _string(r: Reader) -> Wait[str | None]:
    if (yield from r.spaces()) != '"':
        return None
    text = yield from _value(r)
    return json.loads(text) if text is not None else None


def _value(r: Reader) -> Wait[str | None]:
    """The text of a value of any kind; None if it is not JSON."""
    if (yield from r.spaces()) not in ("{", "[", '"'):
        return (yield from r.word())
    pieces: list[str] = []
    whole = yield from r.json(pieces.append)
    return "".join(pieces) if whole else None


def _object(text: str | None) -> str | None:
    """Arguments as the text of an object; None if they are not an object."""
    if text is None or text == "null":
        return "{}"
    try:
        value = json.loads(text)
        if isinstance(value, str):
            text, value = value, json.loads(value)
            text.encode()  # raises for half of a surrogate pair
    except (ValueError, RecursionError):
        return None
    return text if isinstance(value, dict) else None
