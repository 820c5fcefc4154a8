"""What a child process said on standard error before it ended."""

from typing import IO


def last_words(said: IO[bytes]) -> str:
    """The line that tells most of why: an assertion, an abort, an error, else the last."""
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").splitlines()
    telling = [line for line in lines if "ASSERT" in line or "abort" in line.lower() or "rror" in line]
    return (telling or lines or ["it gave no reason"])[-1].strip()
