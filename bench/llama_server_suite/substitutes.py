"""Substitutes for the hub's files: which model replaces which, and how each is made."""

import json
import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from bench.llama_server_suite.scripted import PICTURES, write_scripted
from tests.companions import write_lora, write_mmproj
from tools.random_bert import SPECIAL, write_bert
from vram_llm import demo
from vram_llm.model.header_reader import read_header

STORIES, INFILL, EMBEDDING, RERANKER, PICTURE, PROJECTOR, ADAPTER = (
    f"{name}.gguf"
    for name in ("stories", "infill", "embedding", "reranker", "picture", "projector", "adapter")
)
# Words that the tests' token counts take to be one token; all others are spelled.
_EMBEDDED = ("i", "believe", "the", "meaning", "of", "life", "is", "this", "a", "test", "hello")
_RANKED = (
    "mach", "##ine", "learning", "is", "a", "which", "city", "par", "##is", "cap", "##ital", "##e",
)  # fmt: skip
_RANKER_SEED = 65  # with it the tests' third document is the most relevant, the fourth the least
# Answers of the scripted models in tests of tools and thinking, by a part of the test's id.
_SUM = "\n</think>To find the sum of both, add them."
_THINKING = "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja"  # it opens the thinking
_ANSWERS = {
    "test_anthropic_thinking": "It is four.\n</think>4.",
    "test_calc_result": "The y coordinate is 0.56, about **0.5**",
    "llama_telemetry": "All is well.",
    "library_stops": "Sure, here's one for you: why did the server stop?",
    "-I need to calculate": f"I need to calculate the sum of 102 and 7.{_SUM}",
    "-First, I ": f"First, I add.{_SUM}",
    "test_thoughts": "The sum of 102 and 7 is 109.",
    "without_tool_call": "Once upon a time there was a server.",
}
_CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "test_hello_world": ("python", {"code": "print('Hello, World!')"}),
    "test_weather": ("get_current_weather", {"location": "Istanbul"}),
    "-success-": ("test", {"success": True}),
    "-code-": ("python", {"code": "x"}),
}
# The forms of calls, by a part of the name of the chat template's file; else Hermes'.
_FORMS = {
    "meta-llama": "llama",
    "functionary-medium-v3.2": "functionary",
    "command-r7b": "command",
    "deepseek-r1": "thinking",
}
_REVISION = 6  # raise it when the written files change


@dataclass(frozen=True, slots=True)
class Substitute:
    """Files for one repository of the hub."""

    model: Path
    projector: Path | None = None


def write_substitutes(folder: Path, templates: Path) -> Path:
    """Write the missing files under `folder`. Returns the folder of this revision.

    `templates` holds llama.cpp's chat templates.
    """
    folder = folder / str(_REVISION)
    if (folder / ADAPTER).exists():  # the last one
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write_scripted(folder / STORIES)
    write_scripted(folder / INFILL, fills=True)
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
    answers = {key: _answered(text) for key, text in _ANSWERS.items()}
    answers |= {key: _called(name, arguments) for key, (name, arguments) in _CALLS.items()}
    for key, forms in answers.items():
        for form, text in forms.items():
            own = (templates / _THINKING).read_text() if "</think>" in text else _hermes_template()
            write_scripted(folder / _speaker(key, form), [text], ends=True, template=own)
    write_lora(folder / ADAPTER, folder / STORIES)
    return folder


def substitute(
    folder: Path, repository: str, file: str | None, *, test: str = "", template: str = ""
) -> Substitute:
    """The substitute in `folder` for a repository of the hub, by its kind.

    For models that answer and call functions, it is the scripted model with the answer of this test, in the
    call format of the chat template's file; else the built-in model. For other models it is a scripted one.
    """
    name = f"{repository}/{file or ''}".lower()
    if "bert-bge" in name:
        return Substitute(folder / EMBEDDING)
    if "reranker" in name:
        return Substitute(folder / RERANKER)
    if "infill" in name:
        return Substitute(folder / INFILL)
    if "tinygemma3" in name:
        return Substitute(folder / PICTURE, folder / PROJECTOR)
    if any(part in name for part in ("instruct", "-it-", "hermes", "functionary", "command", "r1", "qwq")):
        return Substitute(_scripted(folder, test, template) or demo.path())
    if "functionary" in template or "llama_telemetry" in test:  # its own form; an answer that ends
        return Substitute(_scripted(folder, test, template) or folder / STORIES)
    return Substitute(folder / STORIES)


def _scripted(folder: Path, test: str, template: str) -> Path | None:
    """The scripted model with a test's answer, or None."""
    form = next((form for part, form in _FORMS.items() if part in template), "hermes")
    key = next((key for key in (*_ANSWERS, *_CALLS) if key in test), None)
    named = (folder / _speaker(key, each) for each in (form, "hermes")) if key is not None else ()
    return next((path for path in named if path.exists()), None)


def _answered(text: str) -> dict[str, str]:
    """An answer in each form, by the form's name."""
    return {
        "hermes": text,
        "functionary": f"all\n{text}",
        "thinking": text if _SUM in text else f"Hm.{_SUM}{text}",
    }


def _called(name: str, arguments: dict[str, Any]) -> dict[str, str]:
    """A call in each form, by the form's name."""
    called, given = json.dumps(name), json.dumps(arguments)
    action = f'{{"tool_call_id": "0", "tool_name": {called}, "parameters": {given}}}'
    return {
        "hermes": f'<tool_call>\n{{"name": {called}, "arguments": {given}}}\n</tool_call>',
        "llama": f'{{"name": {called}, "parameters": {given}}}',
        "functionary": f"{name}\n{given}",
        "command": f"<|START_ACTION|>[\n    {action}\n]<|END_ACTION|>",
    }


def _speaker(key: str, form: str) -> str:
    return f"{'-'.join(re.findall('[a-z_A-Z]+', key))}-{form}.gguf"


def _hermes_template() -> str:
    """The built-in model's chat template, which has Hermes' form of calls."""
    template = read_header(demo.path()).metadata["tokenizer.chat_template"]
    assert isinstance(template, str)
    return template


def _pieces(words: tuple[str, ...]) -> list[str]:
    """A WordPiece vocabulary of these words, and every letter, digit and mark."""
    letters = [*string.ascii_lowercase, *string.digits]
    marks = list(string.punctuation)
    return list(dict.fromkeys([*SPECIAL, *marks, *letters, *(f"##{letter}" for letter in letters), *words]))
