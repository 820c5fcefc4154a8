"""Find installed models by a part of their name: "gemma", "llama3.1:8b", "Qwen3 30B q4_k_m".

Letters and digits are compared in groups, so that "llama3.1" and "Llama-3.1" are the same and "8b" is not in
"28B". Every part between ":", "/" and spaces has to be in the name; Ollama's tag "latest" is ignored.
"""

import difflib
import re
from collections.abc import Iterable, Sequence

from vram_llm.model.location import HUB, KEEPERS
from vram_llm.model.shards import stem

_PART = re.compile(r"[:/\s]+")
_GROUP = re.compile(r"[a-z]+|\d+")
_LATEST = ":latest"
_LEAST_LETTERS = 3  # shorter groups match whole groups only: "q" of "q4" is not in "qwen"
_ALIKE = 0.4


def meant(text: str, names: Iterable[str]) -> list[str]:
    """The names that `text` may stand for.

    A name matches if it equals `text`, with or without folders and suffix. If no name does, the names that
    contain all parts of `text` match. A file's full name ("x.gguf") means that file only.
    """
    wanted = text.lower().removesuffix(_LATEST)
    keeper = next((prefix for prefix in (HUB, *KEEPERS) if wanted.startswith(prefix)), "")
    names, wanted = [name for name in names if name.startswith(keeper)], wanted.removeprefix(keeper)
    called = next(filter(None, ([n for n in names if wanted == form(n)] for form in _FORMS)), [])
    parts = [groups for part in _PART.split(wanted) if (groups := _groups(part))]
    if called or not parts or wanted.endswith(".gguf"):
        return called
    return [name for name in names if all(_holds(_groups(_kept(name)), part) for part in parts)]


def nearest(text: str, names: Iterable[str], n: int = 3) -> list[str]:
    """The `n` names most like `text`, the nearest first."""
    wanted = _groups(text)

    def likeness(name: str) -> float:
        groups = _groups(_stem(name))
        runs = (groups[start : start + len(wanted)] for start in range(max(len(groups) - len(wanted), 0) + 1))
        return max(difflib.SequenceMatcher(None, " ".join(wanted), " ".join(run)).ratio() for run in runs)

    likenesses = {name: likeness(name) for name in names if wanted}
    ranked = sorted(likenesses, key=lambda name: (-likenesses[name], name))
    return [name for name in ranked if likenesses[name] >= _ALIKE][:n]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The shortest unique form of each name: its file without suffix and shard number, or MODEL:TAG."""
    forms = {}
    for name in names:
        file = stem(name.partition(":")[2].removesuffix(_LATEST))
        forms[name] = file if meant(file, names) == [name] else name
    return forms


def _kept(name: str) -> str:
    """A name without the prefix of the program that keeps the model: "org/repo/file.gguf", "model:tag"."""
    return name.lower().partition(":")[2].removesuffix(_LATEST)


def _file(name: str) -> str:
    return _kept(name).rpartition("/")[2]


def _stem(name: str) -> str:
    return stem(_file(name))


_FORMS = (_kept, _file, _stem)


def _groups(text: str) -> list[str]:
    return _GROUP.findall(text.lower())


def _holds(groups: Sequence[str], part: Sequence[str]) -> bool:
    """Whether `part`'s groups follow each other somewhere in `groups`."""
    return any(
        all(_is_in(want, have) for want, have in zip(part, groups[start:], strict=False))
        for start in range(len(groups) - len(part) + 1)
    )


def _is_in(wanted: str, group: str) -> bool:
    return wanted == group or (wanted.isalpha() and len(wanted) >= _LEAST_LETTERS and wanted in group)
