"""Values that a model writes as Python does: 'text', True, None, [1, 'a'], {'key': 1}; or as JSON."""

import json
import re

_TOKEN = re.compile(r"""\s+|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[\[\]{}(),:]|[^\s\[\]{}(),:'"]+""", re.DOTALL)
_WORDS = {"True": "true", "False": "false", "None": "null"}
_BRACKETS = {"(": "[", ")": "]"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(\n)|(.))", re.DOTALL)
_CHARS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"}
_LITERAL = "\\'\"/"


def json_of(text: str) -> str | None:
    """The JSON of a literal; None if the text is not a literal, or has no JSON."""
    out: list[str] = []
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return None
        at = token.end()
        out.append(_json_token(token[0], out))
    written = "".join(out)
    try:
        json.loads(written, parse_constant=_refuse)
        written.encode()
    except (ValueError, RecursionError):
        return None
    return written


def _json_token(token: str, before: list[str]) -> str:
    if token[0] in "'\"":
        return json.dumps(unescaped(token[1:-1]), ensure_ascii=False)
    if token.isspace():
        return " "
    if token in ")]}":
        while before and before[-1] in (",", " "):
            before.pop()
    return _WORDS.get(token) or _BRACKETS.get(token, token)


def unescaped(text: str) -> str:
    """A string's text without its escapes. An unknown escape stays."""
    plain = _ESCAPE.sub(_char, text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _char(escape: re.Match[str]) -> str:
    for code in escape.groups()[:3]:
        if code is not None:
            return chr(int(code, 16)) if int(code, 16) < 0x110000 else "\ufffd"
    if escape[4]:
        return ""
    if escape[5] in _LITERAL:
        return escape[5]
    return _CHARS.get(escape[5], escape[0])


def _refuse(constant: str) -> None:
    raise ValueError(constant)
