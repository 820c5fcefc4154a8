"""The questions and answers in data/*.txt, and the prose in the same folder.

A file holds blocks with an empty line between them: one question a line, `~` before those kept out of
training, and last `=` before the answer. `# ...` names the topic of the following blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
PROSE = DATA / "prose.txt"  # only for the vocabulary
TEMPLATE = DATA / "template.jinja"


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer, its training questions, and its test questions."""

    topic: str
    questions: tuple[str, ...]
    kept_out: tuple[str, ...]
    answer: str


def entries(folder: Path = DATA) -> list[Entry]:
    """All entries, file by file. Raises ValueError for a block without question or answer."""
    paths = sorted(path for path in folder.glob("*.txt") if path.name != PROSE.name)
    return [entry for path in paths for entry in _read(path)]


def _read(path: Path) -> Iterator[Entry]:
    topic = ""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        lines = [line for line in block.splitlines() if line]
        topic = next((line[2:] for line in lines if line.startswith("# ")), topic)
        questions = [line for line in lines if not line.startswith(("# ", "~ ", "= "))]
        answers = [line[2:] for line in lines if line.startswith("= ")]
        if not lines or lines == [f"# {topic}"]:
            continue
        if not questions or len(answers) != 1:
            raise ValueError(f"{path.name}: no question, or not one answer, in:\n{block}")
        kept_out = tuple(line[2:] for line in lines if line.startswith("~ "))
        yield Entry(topic, tuple(questions), kept_out, answers[0])
