"""The files of a code base, with token counts by the server's own tokenizer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

SUFFIXES = frozenset(
    {
        ".py", ".java", ".kt", ".scala", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".vb", ".js", ".ts",
        ".php", ".pl", ".rb", ".go", ".rs", ".swift", ".sql", ".sh", ".xml", ".properties",
        ".cob", ".cbl", ".cpy", ".jcl", ".f", ".f90", ".for", ".pas", ".bas",
    }
)  # fmt: skip
LONGEST_ASKED = 500_000  # characters in one question for a count

Count = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the code base; its folder is its module."""

    path: str
    text: str
    tokens: int

    @property
    def module(self) -> str:
        """The folder it is in, "." at the top."""
        return str(Path(self.path).parent)


def counter(client: httpx.Client, base_url: str) -> Count:
    """Counts tokens by POST /tokenize of the server behind `base_url`."""
    address = f"{base_url.rstrip('/').removesuffix('/v1')}/tokenize"

    def count(text: str) -> int:
        total = 0
        for start in range(0, len(text), LONGEST_ASKED):
            reply = client.post(address, json={"content": text[start : start + LONGEST_ASKED]})
            reply.raise_for_status()
            total += len(reply.json()["tokens"])
        return total

    return count


def load(folder: Path, count: Count) -> list[SourceFile]:
    """Every source file below `folder`, in the order of their paths."""
    return [_file(path, folder, count) for path in sorted(_paths(folder))]


def _paths(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and path.suffix.lower() in SUFFIXES and not hidden:
            yield path


def _file(path: Path, folder: Path, count: Count) -> SourceFile:
    text = path.read_text(encoding="utf-8", errors="replace")
    return SourceFile(path.relative_to(folder).as_posix(), text, count(text))
