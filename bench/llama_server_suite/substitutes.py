"""Files in place of the hub's: which model stands for which, and how each is made."""

import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from bench.llama_server_suite.scripted import PICTURES, write_scripted
from tests.companions import write_lora, write_mmproj
from tools.random_bert import SPECIAL, write_bert
from vram_llm import demo
from vram_llm.model.header import read_header

STORIES, EMBEDDING, RERANKER, PICTURE, PROJECTOR, ADAPTER = (
    f"{name}.gguf" for name in ("stories", "embedding", "reranker", "picture", "projector", "adapter")
)
# Words that the tests' token counts take to be one token; all others are spelled.
_EMBEDDED = ("i", "believe", "the", "meaning", "of", "life", "is", "this", "a", "test", "hello")
_RANKED = (
    "mach", "##ine", "learning", "is", "a", "which", "city", "par", "##is", "cap", "##ital", "##e",
)  # fmt: skip
_RANKER_SEED = 65  # with it the tests' third document is the most relevant, the fourth the least
# What the scripted models say in tests of tools and thinking, by a part of the test's id.
_ANSWERS = {
    "test_calc_result": "The y coordinate is 0.56, about **0.5**",
    "test_thoughts": "The sum of 102 and 7 is 109.",
}
_CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "test_hello_world": ("python", {"code": "print('Hello, World!')"}),
    "test_weather": ("get_current_weather", {"location": "Istanbul"}),
    "-success-": ("test", {"success": True}),
    "-code-": ("python", {"code": "x"}),
}
_REVISION = 2  # raised when what is written here changes


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
    for key, text in _ANSWERS.items():
        write_scripted(folder / _speaker(key), [text], ends=True, template=_hermes_template())
    for key, (name, arguments) in _CALLS.items():
        for form, text in _written(name, arguments).items():
            write_scripted(folder / _speaker(key, form), [text], ends=True, template=_hermes_template())
    write_lora(folder / ADAPTER, folder / STORIES)
    return folder


def substitute(
    folder: Path, repository: str, file: str | None, *, test: str = "", template: str = ""
) -> Substitute:
    """What stands in `folder` for a repository of the hub, by its kind.

    For models that answer and call functions: the scripted one that says what the test with this id is about,
    in the form of calls of the chat template's file, else the built-in model. A scripted one for the rest.
    """
    name = f"{repository}/{file or ''}".lower()
    if "bert-bge" in name:
        return Substitute(folder / EMBEDDING)
    if "reranker" in name:
        return Substitute(folder / RERANKER)
    if "tinygemma3" in name:
        return Substitute(folder / PICTURE, folder / PROJECTOR)
    if any(part in name for part in ("instruct", "-it-", "hermes", "functionary", "command", "r1", "qwq")):
        form = "llama" if "meta-llama" in template else "hermes"
        key = next((key for key in (*_ANSWERS, *_CALLS) if key in test), None)
        if key is None:
            return Substitute(demo.path())
        return Substitute(folder / (_speaker(key) if key in _ANSWERS else _speaker(key, form)))
    return Substitute(folder / STORIES)


def _written(name: str, arguments: dict[str, Any]) -> dict[str, str]:
    """A call as models write it, by the name of the form."""
    called, given = json.dumps(name), json.dumps(arguments)
    return {
        "hermes": f'<tool_call>\n{{"name": {called}, "arguments": {given}}}\n</tool_call>',
        "llama": f'{{"name": {called}, "parameters": {given}}}',
    }


def _speaker(key: str, form: str = "text") -> str:
    return f"{key.strip('-')}-{form}.gguf"


def _hermes_template() -> str:
    """The built-in model's, which writes calls as Hermes does."""
    template = read_header(demo.path()).metadata["tokenizer.chat_template"]
    assert isinstance(template, str)
    return template


def _pieces(words: tuple[str, ...]) -> list[str]:
    """A WordPiece vocabulary of these words, and every letter, digit and mark."""
    letters = [*string.ascii_lowercase, *string.digits]
    marks = list(string.punctuation)
    return list(dict.fromkeys([*SPECIAL, *marks, *letters, *(f"##{letter}" for letter in letters), *words]))
