"""The end of a JSON value, found while it is still being written (RFC 8259)."""

import re

MAX_DEPTH = 64
_SPACE = " \t\n\r"
_SCALAR = re.compile(r"true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_ESCAPES = '"\\/bfnrt'
_CLOSER = {"{": "}", "[": "]"}


class JsonScan:
    """Follows one object, array or string that comes in pieces of any size.

    Call `feed` until `done` or `broken`. A number, true, false or null on its own never ends, so it is
    broken.
    """

    def __init__(self) -> None:
        self.done = False
        self.broken = False
        self._closers: list[str] = []
        self._want = "value"  # or "key", "colon", "comma"
        self._may_close = False  # right after an opening bracket
        self._string = False
        self._escape = ""  # the escape so far, from its backslash on
        self._scalar = ""

    def feed(self, text: str, at: int = 0) -> int:
        """The place in `text`, read from `at`, where the value ends or breaks; len(text) if it continues."""
        while at < len(text) and not self.done and not self.broken:
            if self._string and not self._escape:
                plain = _PLAIN.match(text, at)
                if plain is not None:
                    at = plain.end()
                    continue
            if self._take(text[at]):
                at += 1
        return at

    def _take(self, char: str) -> bool:
        """Read `char`; False if it ends the open scalar and must be read again."""
        if self._string:
            self._in_string(char)
            return not self.broken
        if self._scalar:
            if char not in _SPACE + ",]}":
                self._scalar += char
                self.broken = len(self._scalar) > 400  # no number in use has more digits
                return not self.broken
            self.broken = _SCALAR.fullmatch(self._scalar) is None
            self._scalar = ""
            self._want = "comma"
            return False
        if char in _SPACE:
            return True
        self._structure(char)
        return not self.broken

    def _in_string(self, char: str) -> None:
        if self._escape:
            self._escape += char
            if self._escape[1] == "u":
                self.broken = len(self._escape) > 2 and char not in "0123456789abcdefABCDEF"
                if len(self._escape) == 6:
                    self._escape = ""
            else:
                self.broken = char not in _ESCAPES
                self._escape = ""
        elif char == "\\":
            self._escape = char
        elif char == '"':
            self._string = False
            if self._want == "key":
                self._want = "colon"
            else:
                self._value_ends()
        else:
            self.broken = True  # a control character

    def _structure(self, char: str) -> None:
        may_close, self._may_close = self._may_close, False
        if self._closers and char == self._closers[-1] and (self._want == "comma" or may_close):
            self._closers.pop()
            self._value_ends()
        elif self._want == "colon" and char == ":":
            self._want = "value"
        elif self._want == "comma" and char == ",":
            self._want = "key" if self._closers[-1] == "}" else "value"
        elif self._want in ("key", "value") and char == '"':
            self._string = True
        elif self._want == "value" and char in _CLOSER and len(self._closers) < MAX_DEPTH:
            self._closers.append(_CLOSER[char])
            self._want = "key" if char == "{" else "value"
            self._may_close = True
        elif self._want == "value" and self._closers and char in "-0123456789tfn":
            self._scalar = char
        else:
            self.broken = True

    def _value_ends(self) -> None:
        self.done = not self._closers
        self._want = "comma"
