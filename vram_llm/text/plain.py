"""ASCII in place of the symbols that output uses, for terminals and encodings that lack them."""

import unicodedata

_PLAIN = {
    "▇": "#", "█": "#", "▓": "=", "▒": "+", "░": "~", "━": "-", "╸": "-", "╺": "-", "─": "-", "│": "|",
    "·": ".", "•": "*", "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "±": "+/-", "≤": "<=", "≥": ">=",
    "→": "->", "←": "<-", "“": '"', "”": '"', "„": '"', "\u2018": "'", "\u2019": "'",
    "\u00a0": " ", "\u202f": " ",
}  # fmt: skip
_SYMBOLS = str.maketrans(_PLAIN)
_SPINNER = range(0x2800, 0x2900)  # braille, which rich's spinners are drawn with


def plain_symbols(text: str) -> str:
    """`text` with ASCII for the symbols of our own output; other characters stay."""
    return text.translate(_SYMBOLS)


def ascii_text(text: str) -> str:
    """`text` in ASCII: symbols replaced as by `plain_symbols`, letters without accents, "?" for the rest."""
    return text if text.isascii() else "".join(map(_ascii, text))


def _ascii(char: str) -> str:
    if char.isascii():
        return char
    if char in _PLAIN:
        return _PLAIN[char]
    if ord(char) in _SPINNER:
        return "*"
    return unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode() or "?"
