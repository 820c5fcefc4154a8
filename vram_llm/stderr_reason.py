"""Find the reason why a process with llama.cpp ended, in its standard error."""

import os
import re
from collections.abc import Iterable
from typing import IO

_ASSERTION = re.compile(r"(?:\S*/)?([\w.-]+\.\w+:\d+: .*)")  # the file without its folders
_TELLING = re.compile(r"assert|abort|error|failed|crashed", re.IGNORECASE)


_LARGE_PAGES = "glibc.malloc.hugetlb"


def environment() -> dict[str, str]:
    """The environment for a child that may abort. In it ggml starts no debugger, which takes seconds and
    writes a hundred lines after the reason (ggml_print_backtrace in ggml.c).

    glibc asks for large pages, with which the processor reads weights faster. A user's own choice stays.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _LARGE_PAGES not in tunables:
        tunables = ":".join(filter(None, (tunables, f"{_LARGE_PAGES}=1")))
    return {**os.environ, "GGML_NO_BACKTRACE": "1", "GLIBC_TUNABLES": tunables}


def is_telling(line: str) -> bool:
    """Whether a line may give the reason why a process ends."""
    return _TELLING.search(line) is not None


def reason(lines: Iterable[str]) -> str | None:
    """The line with the reason: the last assertion, else the last telling line; None without either."""
    telling = [line.strip() for line in lines if is_telling(line)]
    asserted = [line for line in telling if "ASSERT" in line]
    if not telling:
        return None
    line = (asserted or telling)[-1]
    match = _ASSERTION.fullmatch(line)
    return match[1] if match else line


def last_words(stderr: IO[bytes]) -> str:
    """The reason in a child's standard error file, else its last line."""
    stderr.seek(0)
    lines = stderr.read().decode("utf-8", "replace").splitlines()
    return reason(lines) or (lines or ["it gave no reason"])[-1].strip()
