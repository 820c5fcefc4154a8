"""Why a process that ran llama.cpp ended: read from what it wrote to standard error."""

import os
import re
from collections.abc import Iterable
from typing import IO

_ASSERTION = re.compile(r"(?:\S*/)?([\w.-]+\.\w+:\d+: .*)")  # the file with its folders, which say nothing
_TELLING = re.compile(r"assert|abort|error|failed|crashed", re.IGNORECASE)


def environment() -> dict[str, str]:
    """This process's, for a child that may abort: ggml then starts no debugger, which takes seconds and
    writes a hundred lines after the reason (ggml_print_backtrace in ggml.c).
    """
    return {**os.environ, "GGML_NO_BACKTRACE": "1"}


def is_telling(line: str) -> bool:
    """Whether a line may say why a process ends."""
    return _TELLING.search(line) is not None


def reason(lines: Iterable[str]) -> str | None:
    """The line that says most of why: the last assertion, else the last telling one; None without either."""
    telling = [line.strip() for line in lines if is_telling(line)]
    asserted = [line for line in telling if "ASSERT" in line]
    if not telling:
        return None
    line = (asserted or telling)[-1]
    match = _ASSERTION.fullmatch(line)
    return match[1] if match else line


def last_words(stderr: IO[bytes]) -> str:
    """The reason in a file that a child has written to, else its last line."""
    stderr.seek(0)
    lines = stderr.read().decode("utf-8", "replace").splitlines()
    return reason(lines) or (lines or ["it gave no reason"])[-1].strip()
