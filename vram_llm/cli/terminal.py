"""Standard output and error, with any encoding, a reader that may go away, and a terminal or none.

Text that an encoding lacks is written in ASCII. click would write UTF-8 to an ASCII stream, so such a stream
gets an encoding of another name. Data (JSON, scripts) is written as bytes and stays UTF-8.
"""

import codecs
import io
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import click

from vram_llm.text.lines import Line, Style, escaped
from vram_llm.text.plain import ascii_text, plain_symbols

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_ASCII, _C_LOCALE = "plain_ascii", "plain_symbols"  # rich draws in ASCII unless the name begins with "utf"
_ERRORS = "vram_llm_plain"
_C = ("C", "POSIX")
_STYLES = {
    Style.PLAIN: "", Style.STRONG: "bold", Style.DIM: "dim", Style.GOOD: "green", Style.TIGHT: "yellow",
    Style.BAD: "red",
}  # fmt: skip


def prepare(environ: Mapping[str, str] = os.environ) -> None:
    """Make standard output and error take any text, whatever their encoding."""
    codecs.register(_find)
    codecs.register_error(_ERRORS, _replace)
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        name = codecs.lookup(stream.encoding).name
        if name == "ascii":
            stream.reconfigure(encoding=_ASCII)
        elif name == "utf-8" and _is_c_locale(environ):
            stream.reconfigure(encoding=_C_LOCALE)
        else:
            stream.reconfigure(errors=_ERRORS)


def console(*, stderr: bool = False) -> "Console":
    """rich's console, which colours nothing by itself and writes no control characters of texts."""
    from vram_llm.cli.escaping_console import EscapingConsole

    return EscapingConsole(stderr=stderr, highlight=False)


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Write a text to standard output or error, without its control characters."""
    click.echo(escaped(text), err=err, nl=nl)


def width(*, stderr: bool = False) -> int:
    """Columns of standard output or error, or COLUMNS, else 80, without a terminal."""
    return console(stderr=stderr).width


def show(lines: Iterable[Line], *, stderr: bool = False) -> None:
    """Write lines to standard output or error, coloured if it is a terminal. Nothing is wrapped."""
    out = console(stderr=stderr)
    for line in lines:
        text = styled(line)
        text.rstrip()
        out.print(text, soft_wrap=True)


def styled(line: Line) -> "Text":
    """A line as rich's text."""
    from rich.text import Text

    return Text.assemble(*((span.text, _STYLES[span.style]) for span in line))


def is_ascii_output() -> bool:
    """Whether standard output takes only ASCII, by its encoding or by the locale."""
    return sys.stdout.encoding in (_ASCII, _C_LOCALE)


def drop_output() -> None:
    """Discard the buffered output: its reader has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)


def _is_c_locale(environ: Mapping[str, str]) -> bool:
    """Whether the user asks for the C locale, in which Python itself uses UTF-8 (PEP 538)."""
    if "PYTHONIOENCODING" in environ or environ.get("PYTHONUTF8") == "1":
        return False
    if environ.get("LC_ALL"):
        return environ["LC_ALL"] in _C
    return environ.get("LANG") in _C and environ.get("LC_CTYPE", "") in ("", "C.UTF-8", *_C)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Error handler of encodings: replaces characters that the encoding lacks by ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return ascii_text(error.object[error.start : error.end]), error.end


def _find(name: str) -> codecs.CodecInfo | None:
    match name:
        case "plain_ascii":
            return _codec(name, lambda text: ascii_text(text).encode("ascii"))
        case "plain_symbols":
            return _codec(name, lambda text: plain_symbols(text).encode("utf-8", _ERRORS))
    return None


def _codec(name: str, encode: Callable[[str], bytes]) -> codecs.CodecInfo:
    class _Encoder(codecs.IncrementalEncoder):
        def encode(self, input: str, final: bool = False) -> bytes:
            return encode(input)

    return codecs.CodecInfo(
        name=name,
        encode=lambda text, errors="strict": (encode(text), len(text)),
        decode=codecs.utf_8_decode,
        incrementalencoder=_Encoder,
        incrementaldecoder=codecs.getincrementaldecoder("utf-8"),
    )
