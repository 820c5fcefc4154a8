"""Write the list of llama-server's flags, which a test compares with the table of `vram-llm llama-server`.

    python -m scripts.llama_server_flags common/arg.cpp > tests/cli/llama_server_line/flags.txt

A line has the kind of value, the names, the negative names after a slash, and the variable. The flags are
those whose examples include LLAMA_EXAMPLE_COMMON or LLAMA_EXAMPLE_SERVER. Standard library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

_FIRST = "common_params_parser_init(common_params & params, llama_example ex"
_SERVER = ("LLAMA_EXAMPLE_COMMON", "LLAMA_EXAMPLE_SERVER", "mmproj_examples")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_HANDLER = re.compile(r"\[[^\]]*\]\s*\(common_params &\s*(?:params)?\s*([^)]*)\)")


def flags(source: str) -> Iterator[str]:
    """A line for each flag of llama-server in the text of arg.cpp."""
    source = re.sub(r"/\*.*?\*/", "", source)
    for part in source[source.index(_FIRST) :].split("add_opt(common_arg(")[1:]:
        names, rest = _names(part)
        negative: list[str] = []
        if rest.startswith("{"):
            negative, rest = _names(rest)
        examples = _argument(rest, "set_examples") or "LLAMA_EXAMPLE_COMMON"
        excluded = _argument(rest, "set_excludes") or ""
        if not any(name in examples for name in _SERVER) or "LLAMA_EXAMPLE_SERVER" in excluded:
            continue
        variable = _STRING.search(_argument(rest, "set_env") or "")
        words = [_kind(rest), *names]
        words += ["/", *negative] if negative else []
        words += [f"${variable[1]}"] if variable else []
        yield " ".join(words)


def _names(text: str) -> tuple[list[str], str]:
    """The strings of the first braces, and the text behind them."""
    begin, end = text.index("{"), text.index("}")
    return _STRING.findall(text[begin:end]), text[end + 1 :].lstrip(", \n")


def _argument(text: str, function: str) -> str | None:
    found = re.search(rf"{function}\(([^)]*)\)", text)
    return found[1] if found else None


def _kind(text: str) -> str:
    """The kind of value, by the parameters of the flag's handler."""
    found = _HANDLER.search(text)
    parameters = found[1].lstrip(", ") if found else ""
    if parameters.count("std::string") == 2:
        return "two"
    return next((kind for kind in ("bool", "int") if parameters.startswith(kind)),
                "text" if "std::string" in parameters else "switch")  # fmt: skip


if __name__ == "__main__":
    print("\n".join(flags(Path(sys.argv[1]).read_text(encoding="utf-8"))))
