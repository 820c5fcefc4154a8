"""Files in place of the hub's: which model stands for which, and how each is made."""

import string
from dataclasses import dataclass
from pathlib import Path

import gguf

from bench.llama_server_suite.scripted import PICTURES, write_scripted
from tests.companions import write_lora, write_mmproj
from tools.random_bert import SPECIAL, write_bert
from vram_llm import demo

STORIES, EMBEDDING, RERANKER, PICTURE, PROJECTOR, ADAPTER = (
    f"{name}.gguf" for name in ("stories", "embedding", "reranker", "picture", "projector", "adapter")
)
# Words that the tests' token counts take to be one token; all others are spelled.
_EMBEDDED = ("i", "believe", "the", "meaning", "of", "life", "is", "this", "a", "test", "hello")
_RANKED = (
    "mach", "##ine", "learning", "is", "a", "which", "city", "par", "##is", "cap", "##ital", "##e",
)  # fmt: skip
_RANKER_SEED = 65  # with it the tests' third document is the most relevant, the fourth the least
_REVISION = 1  # raised when what is written here changes


@dataclass(frozen=True, slots=True)
class Substitute:
    """Files for one repository of the hub."""

    model: Path
    projector: Path | None = None


def write_substitutes(folder: Path) -> Path:
    """Write every file that is not there under `folder`; the folder of this revision."""
    folder = folder / str(_REVISION)
    if (folder / ADAPTER).exists():  # the last one
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write_scripted(folder / STORIES)
    write_bert(folder / EMBEDDING, pooling=gguf.PoolingType.CLS, pieces=_pieces(_EMBEDDED))
    write_bert(
        folder / RERANKER,
        pooling=gguf.PoolingType.RANK,
        pieces=_pieces(_RANKED),
        ends_texts=True,
        seed=_RANKER_SEED,
    )
    write_scripted(folder / PICTURE, circle=PICTURES)
    write_mmproj(folder / PROJECTOR, n_text=512)
    write_lora(folder / ADAPTER, folder / STORIES)
    return folder


def substitute(folder: Path, repository: str, file: str | None) -> Substitute:
    """What stands in `folder` for a repository of the hub, by its kind.

    The built-in model stands for models that answer and call functions, the scripted one for the rest.
    """
    name = f"{repository}/{file or ''}".lower()
    if "bert-bge" in name:
        return Substitute(folder / EMBEDDING)
    if "reranker" in name:
        return Substitute(folder / RERANKER)
    if "tinygemma3" in name:
        return Substitute(folder / PICTURE, folder / PROJECTOR)
    if any(part in name for part in ("instruct", "-it-", "hermes", "functionary", "command", "r1", "qwq")):
        return Substitute(demo.path())
    return Substitute(folder / STORIES)


def _pieces(words: tuple[str, ...]) -> list[str]:
    """A WordPiece vocabulary of these words, and every letter, digit and mark."""
    letters = [*string.ascii_lowercase, *string.digits]
    marks = list(string.punctuation)
    return list(dict.fromkeys([*SPECIAL, *marks, *letters, *(f"##{letter}" for letter in letters), *words]))
