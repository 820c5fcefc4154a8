"""Prompts of text for measuring generation: some of this program's source, and a question after it.

How many drafts are accepted depends on the text. Source code repeats little, has any length, and is on every
computer that runs this program.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

from vram_llm.llama.vocab import Vocab

QUESTIONS = (
    "Explain step by step what this code does, and why somebody would write it in this way.",
    "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
    "What causes the seasons on Earth? Answer in a few paragraphs for a curious child.",
    "Write a Python function that merges two sorted lists, with a docstring and three tests.",
    "List ten things to check before a long journey by bicycle, each with a reason.",
    "Summarise the advantages and the disadvantages of electric cars in plain words.",
    "Translate into French: The library opens at nine, and closes when the last reader has left.",
    "Give a JSON object that describes a book with title, authors, year, chapters and a price.",
    "A train leaves at 9:40 and arrives at 13:05 with two stops of 7 minutes. How long does it move?",
    "Write a polite letter that asks a landlord to repair the heating before the winter.",
    "Compare the reigns of two queens of your choice, and say what their times had in common.",
    "Draft the release notes of a program whose new version is faster and needs less memory.",
)
_ROOT = Path(__file__).parents[1]
_CHARS_A_TOKEN = 6  # of source code there are fewer


class GenerationPrompts:
    """Makes prompts of an exact number of tokens in one vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._files = sorted(_ROOT.rglob("*.py"))
        self._texts: dict[tuple[int, int], list[int]] = {}

    def prompt(self, place: int, n_tokens: int, question: int | None = None) -> tuple[int, ...]:
        """`n_tokens` of source that begins with a file of the number `place`, then a question.

        Prompts of one place have their beginning in common; those of others have nothing.
        """
        asked = [] if question is None else self._tokens(_asked(QUESTIONS[question % len(QUESTIONS)]))
        n_source = max(n_tokens - len(asked), 0)
        return tuple([*self._source(place, n_source), *asked][-n_tokens:])

    def _source(self, place: int, n_tokens: int) -> list[int]:
        if (place, n_tokens) not in self._texts:
            start = place * 37 % len(self._files)
            text, n_chars = "", _CHARS_A_TOKEN * n_tokens
            while True:
                text = _text(itertools.chain(self._files[start:], self._files[:start]), n_chars)
                tokens = self._tokens(text)
                if len(tokens) >= n_tokens or len(text) < n_chars:
                    break
                n_chars *= 2
            more = (i * 7919 % self._vocab.n_tokens for i in itertools.count(place))
            self._texts[place, n_tokens] = list(itertools.islice(itertools.chain(tokens, more), n_tokens))
        return self._texts[place, n_tokens]

    def _tokens(self, text: str) -> list[int]:
        return self._vocab.tokenize(text, add_special=False, parse_special=False)


def _asked(question: str) -> str:
    return f"\n\nQuestion: {question}\n\nAnswer:"


def _text(files: Iterator[Path], n_chars: int) -> str:
    """The beginning of these files, one after the other."""
    found = ""
    for file in files:
        found += file.read_text(encoding="utf-8")
        if len(found) >= n_chars:
            break
    return found[:n_chars]
